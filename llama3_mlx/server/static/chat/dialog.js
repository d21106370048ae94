// What is done in a conversation: asking, answering anew, continuing, comparing. Nothing that was written is lost by it.

import { newId } from "../lib/words.js";
import { readObject, requestOf } from "./settings.js";

export class Dialog {
  /** `modelOf(name)` returns the model that is asked where `name` is set: another one where that is gone. */
  constructor(store, runs, modelOf) {
    this.store = store;
    this.runs = runs;
    this.modelOf = modelOf;
  }

  /** Ask: a message of one's own after the last one, then its answer, or two where models are compared. */
  send(tree, text, files = []) {
    const message = tree.add(tree.path().at(-1)?.id ?? "", { role: "user", content: text, files: files.length ? files : undefined });
    const { conversation } = tree;
    conversation.title ||= (text || files[0]?.name || "").replace(/[*`#~]+/g, "").replace(/\s+/g, " ").trim().slice(0, 80);
    conversation.updated = message.created;
    const kept = this.store.keep(conversation, [message]);
    this.answer(tree, message);
    return kept;
  }

  /** Write what follows `parent`, by one model or by two. */
  answer(tree, parent) {
    const { model, other } = tree.conversation.settings;
    const models = [this.modelOf(model)];
    if (other && this.modelOf(other) !== models[0]) models.push(this.modelOf(other));
    const pair = models.length > 1 ? newId() : undefined;
    const messages = models.map((name) => this.begin(tree, parent, name, pair));
    tree.choose(messages[0]);
    for (const message of messages) this.run(tree, message);
  }

  begin(tree, parent, model, pair) {
    const { use_schema: uses, schema } = tree.conversation.settings;
    return tree.add(parent.id, { role: "assistant", model, pair, json: Boolean(uses && readObject(schema)) });
  }

  run(tree, message) {
    const path = tree.pathTo(message).slice(0, -1);
    return this.runs.start(tree, message, requestOf(tree.conversation.settings, path, message.model));
  }

  /** Answer anew: a further version beside this one; one without a word is written over. */
  again(tree, message) {
    if (!message.content && !message.calls?.length) return this.run(tree, message);
    const parent = tree.messages.get(message.parent);
    const name = message.pair && tree.pair(message) ? message.model : this.modelOf(tree.conversation.settings.model);
    const fresh = this.begin(tree, parent, name, undefined);
    return this.run(tree, fresh);
  }

  /** Write on at the end of an answer that was cut. */
  goOn(tree, message) {
    const body = requestOf(tree.conversation.settings, tree.pathTo(message), message.model, { goOn: true });
    return this.runs.start(tree, message, body);
  }

  /** Ask something else in the place of a message; the earlier branch stays. */
  edit(tree, message, text) {
    const fresh = tree.add(message.parent, { role: "user", content: text, files: message.files });
    this.store.keep(tree.conversation, [fresh]);
    this.answer(tree, fresh);
  }

  /** Give the results of an answer's tool calls, and have the model write on. */
  giveResults(tree, message, results) {
    const added = [];
    let parent = message.id;
    message.calls.forEach((call, place) => {
      const result = tree.add(parent, { role: "tool", content: results[place], callId: call.id, name: call.name });
      added.push(result);
      parent = result.id;
    });
    this.store.keep(tree.conversation, added);
    this.answer(tree, added.at(-1));
  }

  /** Begin a conversation with the last question and answer of another. */
  async carryOn(tree) {
    const path = tree.path(), from = path.findLastIndex(({ role }) => role === "user");
    const { conversation } = tree;
    const fresh = this.store.make(conversation.settings);
    fresh.title = `${conversation.title} (continued)`.slice(0, 90);
    const next = await this.store.tree(fresh.id);
    let parent = "";
    const copies = path.slice(Math.max(0, from)).filter(({ state }) => state !== "error").map((message) => {
      const { role, content, model, calls, callId, files } = message;
      const copy = next.add(parent, { role, content, model, calls, callId, files });
      parent = copy.id;
      return copy;
    });
    await this.store.keep(fresh, copies);
    return fresh;
  }
}
