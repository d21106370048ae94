// Conversations, defaults and presets: held here, kept in IndexedDB, shared between windows.

import { BLANK } from "../chat/settings.js";
import { newId } from "../lib/words.js";
import { openDatabase } from "./database.js";
import { forgetOthers } from "./drafts.js";
import { dropOlderContent, olderContent } from "./migration.js";
import { Unkept } from "./unkept.js";
import { Tabs } from "./tabs.js";
import { Tree } from "./tree.js";
import { forgetWriting, keptWriting } from "./writing.js";

// Trees of messages that stay in memory, so that going back and forth reads nothing.
const MAX_TREES = 12;

export class Store extends EventTarget {
  conversations = new Map();
  trees = new Map();
  defaults = { ...BLANK };
  presets = [];
  currentId = "";
  tabs = new Tabs();
  unkept = new Unkept();

  /** Open what this browser keeps. `failed(message)` is told of what can't be kept, and when it is kept at last. */
  static async open(failed) {
    const store = new Store();
    store.failed = failed;
    store.db = await openDatabase();
    await store.takeOlderContent();
    const [conversations, defaults, presets] = await Promise.all([
      store.db.all("conversations"), store.db.value("defaults"), store.db.value("presets"),
    ]);
    for (const conversation of [...conversations, ...store.unkept.conversations.values()]) store.conversations.set(conversation.id, conversation);
    store.defaults = { ...BLANK, ...defaults };
    store.presets = presets ?? [];
    forgetOthers((id) => store.conversations.has(id));
    store.tabs.hear = (data) => store.hear(data);
    await store.rescueWriting();
    return store;
  }

  /** All conversations, pinned ones first, then those used last; one that hasn't begun only while it is looked at. */
  get list() {
    const listed = [...this.conversations.values()].filter(({ id, isNew }) => !isNew || id === this.currentId);
    return listed.sort((a, b) => (b.pinned - a.pinned) || (b.updated - a.updated));
  }

  get current() {
    return this.conversations.get(this.currentId);
  }

  /** Begin a conversation, or come back to the one whose settings were changed and that holds no message yet. */
  begin() {
    const left = [...this.conversations.values()].find(({ isSet }) => isSet);
    return left ? Object.assign(left, { updated: Date.now() }) : this.make(this.defaults);
  }

  /** Make a conversation with these settings; it is kept once it holds a message. */
  make(settings) {
    const now = Date.now();
    const conversation = {
      id: newId(), title: "", created: now, updated: now, pinned: false, settings: { ...settings }, chosen: {}, isNew: true,
    };
    for (const [id, other] of this.conversations) if (other.isNew) this.conversations.delete(id);
    this.conversations.set(conversation.id, conversation);
    this.trees.set(conversation.id, new Tree(conversation));
    return conversation;
  }

  /** Return the messages of a conversation, read if need be. */
  async tree(id) {
    let tree = this.trees.get(id);
    if (!tree) {
      const messages = this.unkept.over(await this.db.messagesOf(id), id);
      tree = this.trees.get(id) ?? new Tree(this.conversations.get(id), messages);
    }
    this.trees.delete(id);
    this.trees.set(id, tree);
    for (const [other, held] of this.trees) {
      if (this.trees.size <= MAX_TREES) break;
      if (other !== this.currentId && !this.isWritten(held)) this.trees.delete(other);
    }
    return tree;
  }

  isWritten = (tree) => [...tree.messages.keys()].some((id) => this.tabs.isWriting(id));

  /** Mark answers that no window writes on any more. */
  async endAbandoned({ conversation, messages }) {
    for (const message of messages.values()) {
      const isOurs = () => message.state !== "writing" || this.tabs.isWriting(message.id);
      if (isOurs() || await this.tabs.writesElsewhere(message.id) || isOurs()) continue;
      message.state = "broken";
      await this.keep(conversation, [message]);
      this.dispatchEvent(new CustomEvent("elsewhere", { detail: { kind: "changed", id: conversation.id } }));
    }
  }

  /** Keep a conversation and messages of it. */
  async keep(conversation, messages = []) {
    const isGone = this.conversations.get(conversation.id) !== conversation;
    if (isGone) return;
    if (conversation.isNew) {
      conversation.isSet = true;
      if (!messages.length) return;
      delete conversation.isNew;
      delete conversation.isSet;
      this.askToStay();
    }
    await this.change({ conversations: [conversation], messages });
    this.tabs.tell("changed", { conversation, messages });
  }

  /** Keep values by their names: defaults, presets, the id of the conversation that was open. */
  async keepValues(values) {
    await this.change({ values });
    if (!("current" in values)) this.tabs.tell("values", values);
  }

  /** Delete conversations; returns a function that brings them back. */
  async remove(ids) {
    const conversations = ids.map((id) => this.conversations.get(id)).filter((entry) => entry && !entry.isNew);
    const read = await Promise.all(ids.map(async (id) => this.unkept.over(await this.db.messagesOf(id), id)));
    const messages = read.flat().map((message) => (message.state === "writing" ? { ...message, state: "broken" } : message));
    for (const id of ids) { this.conversations.delete(id); this.trees.delete(id); this.unkept.forget(id); }
    await this.change({ drop: ids });
    this.tabs.tell("removed", { ids });
    return async () => {
      for (const conversation of conversations) this.conversations.set(conversation.id, conversation);
      await this.change({ conversations, messages });
      for (const conversation of conversations) this.tabs.tell("changed", { conversation, messages: [] });
    };
  }

  /**
   * Take the content of a file over; a conversation that is here and no older stays, and so does one that is being
   * answered. Returns how many came; throws an Error where there is no room for them.
   */
  async take({ conversations, messages, presets, undated = false }) {
    const isNewer = (entry) => {
      const known = this.conversations.get(entry.id), tree = this.trees.get(entry.id);
      return !known || (!undated && known.updated < entry.updated && !(tree && this.isWritten(tree)));
    };
    const newer = conversations.filter(isNewer), ids = new Set(newer.map(({ id }) => id));
    const names = new Set(this.presets.map(({ name }) => name));
    const values = { presets: [...this.presets, ...presets.filter(({ name }) => !names.has(name))] };
    try {
      await this.db.change({ conversations: newer, messages: messages.filter(({ conversation }) => ids.has(conversation)), values });
    } catch (error) {
      throw new Error(`${wordsOf(error)} Nothing was taken from the file.`);
    }
    Object.assign(this, values);
    for (const conversation of newer) { this.adopt(conversation); this.tabs.tell("replaced", { conversation }); }
    this.tabs.tell("values", values);
    return newer.length;
  }

  /** Take a conversation over that was written to the database by other ways; its messages are read anew. */
  adopt(conversation) {
    const tree = this.trees.get(conversation.id);
    this.conversations.set(conversation.id, Object.assign(this.conversations.get(conversation.id) ?? {}, conversation));
    if (!tree || !this.isWritten(tree)) this.trees.delete(conversation.id);
    this.dispatchEvent(new CustomEvent("elsewhere", { detail: { kind: "changed", id: conversation.id } }));
  }

  /** Write to the database. What it has no room for is told and stays in the page, to be kept with the next change. */
  async change(change) {
    try {
      await this.db.change(change);
    } catch (error) {
      const isNew = this.unkept.add(change);
      if (isNew) this.failed(`${wordsOf(error)} What is new stays in this page until it is closed. Save everything to a file in the settings, then delete conversations.`);
      return;
    }
    if (this.unkept.isEmpty) return;
    const { conversations, messages, values } = this.unkept, late = this.unkept;
    this.unkept = new Unkept();
    try {
      await this.db.change({ conversations: [...conversations.values()], messages: [...messages.values()], values });
      this.failed("There is room again: everything is kept.");
    } catch {
      this.unkept.add({ conversations: late.conversations.values(), messages: late.messages.values(), values: late.values });
    }
  }

  /** Return all conversations and messages, those that couldn't be kept and those being written as far as they are. */
  async everything() {
    const conversations = [...this.conversations.values()].filter(({ isNew }) => !isNew);
    const messages = new Map(this.unkept.over(await this.db.all("messages")).map((message) => [message.id, message]));
    for (const tree of this.trees.values()) for (const message of tree.messages.values()) messages.set(message.id, message);
    return { conversations, messages: [...messages.values()].filter((message) => this.conversations.has(message.conversation)) };
  }

  async takeOlderContent() {
    const older = olderContent();
    if (!older) return;
    await this.change(older);
    if (this.unkept.isEmpty) dropOlderContent();
  }

  /** Take over answers that were being written when their page went away. */
  async rescueWriting() {
    const elsewhere = await Promise.all(keptWriting().map(async (message) => [message, await this.tabs.writesElsewhere(message.id)]));
    for (const [message] of elsewhere.filter(([, isWritten]) => !isWritten)) {
      const conversation = this.conversations.get(message.conversation);
      const kept = await this.db.get("messages", message.id);
      if (conversation && (!kept || kept.state === "writing")) {
        // The one copy or the other came last.
        const longer = kept?.content.length > message.content.length ? kept : message;
        await this.change({ messages: [{ ...longer, state: "broken" }] });
      }
      forgetWriting(message.id);
    }
  }

  hear({ kind, conversation, messages, ids, ...values }) {
    if (kind === "changed") {
      const known = this.conversations.get(conversation.id), tree = this.trees.get(conversation.id);
      const chosen = { ...conversation.chosen };
      for (const parent of tree?.chosenHere ?? []) chosen[parent] = known.chosen[parent];
      this.conversations.set(conversation.id, Object.assign(known ?? {}, conversation, { chosen }));
      for (const message of messages) tree?.take(message);
    } else if (kind === "replaced") {
      return this.adopt(conversation);
    } else if (kind === "removed") {
      for (const id of ids) { this.conversations.delete(id); this.trees.delete(id); this.unkept.forget(id); }
    } else if (kind === "values") {
      Object.assign(this, values);
    }
    this.dispatchEvent(new CustomEvent("elsewhere", { detail: { kind, id: conversation?.id, ids } }));
  }

  /** Ask the browser not to drop what is kept when its disk gets full. */
  askToStay() {
    if (!this.asked) navigator.storage?.persist?.();
    this.asked = true;
  }
}

function wordsOf(error) {
  return error?.name === "QuotaExceededError" ? "The browser has no room left." : `The browser couldn't keep this: ${error?.message ?? error}.`;
}
