// What windows of this page tell each other.

import { newId } from "../lib/words.js";

const WAIT_MS = 300;

export class Tabs {
  constructor() {
    this.id = newId();
    this.channel = new BroadcastChannel("llama3-mlx");
    this.asked = new Map();
    this.hear = () => {};
    this.isWriting = () => false;
    this.channel.onmessage = ({ data }) => this.receive(data);
  }

  tell(kind, values = {}) {
    this.channel.postMessage({ kind, ...values });
  }

  /** Say whether another window is writing a message. */
  writesElsewhere(id) {
    const asked = this.asked.get(id);
    if (asked) return asked.answer;
    const question = {};
    question.answer = new Promise((resolve) => {
      question.resolve = resolve;
      setTimeout(() => { this.asked.delete(id); resolve(false); }, WAIT_MS);
    });
    this.asked.set(id, question);
    this.tell("who writes", { id });
    return question.answer;
  }

  receive(data) {
    if (data.kind === "who writes") {
      if (this.isWriting(data.id)) this.tell("I write", { id: data.id });
    } else if (data.kind === "I write") {
      this.asked.get(data.id)?.resolve(true);
    } else {
      this.hear(data);
    }
  }
}
