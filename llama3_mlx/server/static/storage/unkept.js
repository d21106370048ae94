// What the database had no room for: held until it has.

export class Unkept {
  conversations = new Map();
  messages = new Map();
  values = {};

  get isEmpty() {
    return !this.conversations.size && !this.messages.size && !Object.keys(this.values).length;
  }

  /** Hold a change; returns whether anything of it wasn't held yet. */
  add({ conversations = [], messages = [], values = {} }) {
    const before = this.conversations.size + this.messages.size;
    for (const entry of conversations) this.conversations.set(entry.id, entry);
    for (const entry of messages) this.messages.set(entry.id, entry);
    Object.assign(this.values, values);
    return this.conversations.size + this.messages.size > before || !before;
  }

  /** Return messages, of one conversation or of all, with those that are held in place of older ones. */
  over(messages, conversation = "") {
    const all = new Map(messages.map((message) => [message.id, message]));
    for (const message of this.messages.values()) if (!conversation || message.conversation === conversation) all.set(message.id, message);
    return [...all.values()];
  }

  forget(conversation) {
    this.conversations.delete(conversation);
    for (const [id, message] of this.messages) if (message.conversation === conversation) this.messages.delete(id);
  }
}
