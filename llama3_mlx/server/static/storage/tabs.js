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
  async writesElsewhere(id) {
    const answer = new Promise((resolve) => {
      this.asked.set(id, () => resolve(true));
      setTimeout(() => resolve(false), WAIT_MS);
    });
    this.tell("who writes", { id });
    const found = await answer;
    this.asked.delete(id);
    return found;
  }

  receive(data) {
    if (data.kind === "who writes") {
      if (this.isWriting(data.id)) this.tell("I write", { id: data.id });
    } else if (data.kind === "I write") {
      this.asked.get(data.id)?.();
    } else {
      this.hear(data);
    }
  }
}
