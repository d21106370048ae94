// Conversations, defaults and presets: held here, kept in IndexedDB, shared between windows.

import { BLANK } from "../chat/settings.js";
import { newId } from "../lib/words.js";
import { openDatabase } from "./database.js";
import { dropOlderContent, olderContent } from "./migration.js";
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

  /** Open what this browser keeps. `failed(message)` is told of what can't be kept. */
  static async open(failed) {
    const store = new Store();
    store.failed = failed;
    store.db = await openDatabase();
    await store.takeOlderContent();
    const [conversations, defaults, presets] = await Promise.all([
      store.db.all("conversations"), store.db.value("defaults"), store.db.value("presets"),
    ]);
    for (const conversation of conversations) store.conversations.set(conversation.id, conversation);
    store.defaults = { ...BLANK, ...defaults };
    store.presets = presets ?? [];
    store.tabs.hear = (data) => store.hear(data);
    await store.rescueWriting();
    return store;
  }

  /** All conversations, pinned ones first, then those used last. */
  get list() {
    return [...this.conversations.values()].sort((a, b) => (b.pinned - a.pinned) || (b.updated - a.updated));
  }

  get current() {
    return this.conversations.get(this.currentId);
  }

  /** Begin a conversation with the default settings; it is kept once it holds a message. */
  begin(settings = this.defaults) {
    const now = Date.now();
    const conversation = {
      id: newId(), title: "", created: now, updated: now, pinned: false, settings: { ...settings }, chosen: {}, isNew: true,
    };
    for (const [id, other] of this.conversations) if (other.isNew && id !== this.currentId) this.conversations.delete(id);
    this.conversations.set(conversation.id, conversation);
    this.trees.set(conversation.id, new Tree(conversation));
    return conversation;
  }

  /** Return the messages of a conversation, read if need be. */
  async tree(id) {
    let tree = this.trees.get(id);
    if (!tree) {
      tree = new Tree(this.conversations.get(id), await this.db.messagesOf(id));
      tree = this.trees.get(id) ?? tree;
    }
    this.trees.delete(id);
    this.trees.set(id, tree);
    for (const [other, held] of this.trees) {
      if (this.trees.size <= MAX_TREES) break;
      if (other !== this.currentId && ![...held.messages.values()].some(({ state }) => state === "writing")) this.trees.delete(other);
    }
    return tree;
  }

  /** Keep a conversation and messages of it. */
  async keep(conversation, messages = []) {
    const isGone = this.conversations.get(conversation.id) !== conversation;
    if (isGone || (conversation.isNew && !messages.length)) return;
    if (conversation.isNew) {
      delete conversation.isNew;
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
    const messages = (await Promise.all(ids.map((id) => this.db.messagesOf(id)))).flat();
    for (const id of ids) { this.conversations.delete(id); this.trees.delete(id); }
    await this.change({ drop: ids });
    this.tabs.tell("removed", { ids });
    return async () => {
      for (const conversation of conversations) this.conversations.set(conversation.id, conversation);
      await this.change({ conversations, messages });
      for (const conversation of conversations) this.tabs.tell("changed", { conversation, messages: [] });
    };
  }

  /** Take the content of a file over; what is here already and newer stays. Returns how many conversations came. */
  async take({ conversations, messages, presets }) {
    const newer = conversations.filter((entry) => !(this.conversations.get(entry.id)?.updated >= entry.updated));
    const ids = new Set(newer.map(({ id }) => id));
    const names = new Set(this.presets.map(({ name }) => name));
    this.presets = [...this.presets, ...presets.filter((preset) => preset?.name && !names.has(preset.name))];
    if (!(await this.change({
      conversations: newer, messages: messages.filter(({ conversation }) => ids.has(conversation)), values: { presets: this.presets },
    }))) return 0;
    for (const entry of newer) { this.conversations.set(entry.id, entry); this.trees.delete(entry.id); }
    for (const conversation of newer) this.tabs.tell("changed", { conversation, messages: [] });
    return newer.length;
  }

  /** Write to the database; says what couldn't be kept instead of dropping anything. */
  async change(change) {
    try {
      await this.db.change(change);
      return true;
    } catch (error) {
      const full = error?.name === "QuotaExceededError";
      this.failed(full
        ? "The browser has no room left: what is new is not kept. Save everything to a file in the settings, then delete conversations."
        : `The browser couldn't keep this: ${error?.message ?? error}`);
      return false;
    }
  }

  async takeOlderContent() {
    const older = olderContent();
    if (!older) return;
    if (await this.change(older)) dropOlderContent();
  }

  /** Take over answers that were being written when their page went away. */
  async rescueWriting() {
    for (const message of keptWriting()) {
      if (await this.tabs.writesElsewhere(message.id)) continue;
      const conversation = this.conversations.get(message.conversation);
      const kept = await this.db.get("messages", message.id);
      if (conversation && (!kept || kept.state === "writing")) {
        await this.change({ messages: [{ ...message, state: "broken" }] });
        this.trees.delete(conversation.id);
      }
      forgetWriting(message.id);
    }
  }

  hear({ kind, conversation, messages, ids, ...values }) {
    if (kind === "changed") {
      const known = this.conversations.get(conversation.id);
      const entry = known ? Object.assign(known, conversation) : conversation;
      this.conversations.set(conversation.id, entry);
      const tree = this.trees.get(conversation.id);
      for (const message of messages) tree?.take(message);
    } else if (kind === "removed") {
      for (const id of ids) { this.conversations.delete(id); this.trees.delete(id); }
    } else if (kind === "values") {
      Object.assign(this, values);
    }
    this.dispatchEvent(new CustomEvent("elsewhere", { detail: { kind, id: conversation?.id, values } }));
  }

  /** Ask the browser not to drop what is kept when its disk gets full. */
  askToStay() {
    if (!this.asked) navigator.storage?.persist?.();
    this.asked = true;
  }
}
