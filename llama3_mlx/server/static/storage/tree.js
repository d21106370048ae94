// The messages of a conversation: a tree, since an answer has versions and an edited message begins a branch.

import { newId } from "../lib/words.js";

export class Tree {
  constructor(conversation, messages = []) {
    this.conversation = conversation;
    this.messages = new Map();
    this.children = new Map();
    // Where the way was chosen in this window; elsewhere it follows other windows.
    this.chosenHere = new Set();
    messages.sort((a, b) => a.number - b.number);
    rootLost(messages);
    for (const message of messages) this.take(message);
  }

  /** Put a message in its place, or its newer version in that of the older one. */
  take(message) {
    const known = this.messages.get(message.id);
    if (known) return Object.assign(known, message);
    this.messages.set(message.id, message);
    const siblings = this.children.get(message.parent) ?? [];
    siblings.push(message);
    this.children.set(message.parent, siblings);
    return message;
  }

  /** Make a message below `parent` ("" for the first one) and have the conversation go that way. */
  add(parent, values) {
    const message = this.take({
      id: newId(), conversation: this.conversation.id, parent, number: this.messages.size, created: Date.now(),
      content: "", state: "done", ...values,
    });
    this.choose(message);
    return message;
  }

  versions(message) {
    return this.children.get(message.parent) ?? [message];
  }

  /** Go the way of this message where there are several. */
  choose(message) {
    this.conversation.chosen[message.parent] = message.id;
    this.chosenHere.add(message.parent);
  }

  /** Return the messages that are shown, from the first one on. */
  path() {
    const path = [];
    for (let parent = ""; ;) {
      const below = this.children.get(parent);
      if (!below?.length) return path;
      const chosen = this.messages.get(this.conversation.chosen[parent]);
      const next = chosen?.parent === parent ? chosen : below.at(-1);
      path.push(next);
      parent = next.id;
    }
  }

  /** Return the messages that lead to one, itself the last. */
  pathTo(message) {
    const path = [];
    for (let at = message; at; at = this.messages.get(at.parent)) path.unshift(at);
    return path;
  }

  /** Go the way that leads to this message. */
  reveal(message) {
    for (const step of this.pathTo(message)) this.choose(step);
  }

  /** Return the answers that were asked for together with this one, while nothing follows any of them. */
  pair(message) {
    if (!message?.pair) return null;
    const both = this.versions(message).filter((other) => other.pair === message.pair);
    return both.length > 1 && both.every((other) => !this.children.get(other.id)?.length) ? both : null;
  }
}

/** Have messages whose way to the first one is broken begin a way of their own, so that all can be reached. */
function rootLost(messages) {
  const byId = new Map(messages.map((message) => [message.id, message])), sound = new Set([""]);
  for (const message of messages) {
    const way = new Set();
    let at = message;
    while (!sound.has(at.id)) {
      way.add(at.id);
      const isLost = at.parent && (!byId.has(at.parent) || way.has(at.parent));
      if (isLost) at.parent = "";
      if (sound.has(at.parent)) break;
      at = byId.get(at.parent);
    }
    for (const id of way) sound.add(id);
  }
}
