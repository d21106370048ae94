// Answers that are being written: any number at once, in any conversation, whichever one is looked at.

import { readStatus, streamChat } from "../api.js";
import { forgetWriting, keepWriting } from "../storage/writing.js";

// Between copies of a long answer, and between those in the database and questions to the server.
const LONG = 40_000, LONG_MS = 500, EVERY_MS = 700;
// What comes within this time comes at once: a guard lets text through in lumps.
const BURST_MS = 60;

export class Runs extends EventTarget {
  running = new Map();

  constructor(store) {
    super();
    this.store = store;
    store.tabs.isWriting = (id) => this.running.has(id);
    addEventListener("pagehide", () => this.leave());
  }

  /** Keep what is unfinished, and tell other windows that nobody writes on. */
  leave() {
    for (const { message, tree } of this.running.values()) {
      keepWriting(message);
      this.store.tabs.tell("changed", { conversation: tree.conversation, messages: [{ ...message, state: "broken" }] });
    }
  }

  of(conversationId) {
    return [...this.running.values()].filter((run) => run.message.conversation === conversationId);
  }

  /** Stop what is written in a conversation; the promise ends when all that came is kept. */
  stop(conversationId) {
    return Promise.all(this.of(conversationId).map((run) => {
      run.stopper.abort();
      return run.ended;
    }));
  }

  /** Write `message`, which stands in `tree`, by a request. */
  start(tree, message, body) {
    const run = {
      tree, message, stopper: new AbortController(), began: performance.now(), first: 0, pieces: 0, inFirst: 0,
      stage: { kind: "sending" }, kept: 0, inDatabase: message.content.length,
    };
    run.ended = this.write(run, body);
    return run.ended;
  }

  async write(run, body) {
    const { tree, message } = run;
    for (const name of ["error", "code", "reason", "stats", "refusal", "notes", "judged"]) delete message[name];
    Object.assign(message, { state: "writing", created: Date.now() });
    this.running.set(message.id, run);
    keepWriting(message);
    this.store.keep(tree.conversation, [message]);
    this.changed(run, "began");
    const asking = setInterval(() => { this.ask(run); this.keepNew(run); }, EVERY_MS);
    try {
      for await (const chunk of streamChat(body, run.stopper.signal, () => this.setStage(run, { kind: "accepted" }))) this.take(run, chunk);
      message.state = "done";
    } catch (error) {
      message.state = error.name === "AbortError" ? "stopped" : "error";
      if (message.state === "error") Object.assign(message, { error: error.message, code: error.code });
      run.failure = error;
    } finally {
      clearInterval(asking);
      this.running.delete(message.id);
      tree.conversation.updated = Date.now();
      await this.store.keep(tree.conversation, [message]);
      forgetWriting(message.id);
      this.changed(run, "ended");
    }
  }

  take(run, chunk) {
    const { message } = run;
    if (chunk.prompt_progress && !run.first) this.setStage(run, { kind: "prompt", ...chunk.prompt_progress });
    const [choice] = chunk.choices;
    const { content, refusal, tool_calls: calls } = choice?.delta ?? {};
    if (content || refusal || calls) {
      if (!run.first) Object.assign(run, { first: performance.now(), stage: { kind: "writing" } });
      run.pieces += 1;
      if (performance.now() - run.first < BURST_MS) run.inFirst = run.pieces;
      message.content += content ?? "";
      // Why a guard of the server refused the question or ended the answer.
      if (refusal) message.refusal = (message.refusal ?? "") + refusal;
      for (const call of calls ?? []) this.takeCall(message, call);
      this.changed(run, "text");
    }
    if (choice?.finish_reason) message.reason = choice.finish_reason;
    if (chunk.notes) message.notes = chunk.notes;
    if (chunk.usage) message.stats = stats(run, chunk);
  }

  takeCall(message, call) {
    message.calls ??= [];
    const known = (message.calls[call.index ?? message.calls.length] ??= { id: "", name: "", arguments: "" });
    if (call.id) known.id = call.id;
    known.name += call.function?.name ?? "";
    known.arguments += call.function?.arguments ?? "";
  }

  /** Return the tokens a second up to now: every piece of text counts as one, but those that came at once with the first. */
  rate(run) {
    const seconds = (performance.now() - run.first) / 1000, pieces = run.pieces - run.inFirst;
    return run.first && pieces > 3 ? pieces / seconds : 0;
  }

  /** Before the first word, ask the server what it is at. */
  async ask(run) {
    if (run.first || run.stage.kind === "prompt" || document.hidden) return;
    try {
      const { models } = await readStatus();
      const name = (run.message.model ?? "").split(":")[0];
      const model = models.find((entry) => entry.name === name) ?? models.find((entry) => entry.state === "loading");
      if (run.first || run.stage.kind === "prompt") return;
      if (run.stage.kind === "accepted") {
        if (model?.waiting) this.setStage(run, { ...run.stage, waiting: model.waiting });
      } else if (!model || model.state === "loading") this.setStage(run, { kind: "loading" });
    } catch {
      // The answer's own request says what is wrong.
    }
  }

  setStage(run, stage) {
    run.stage = stage;
    this.changed(run, "stage");
  }

  /** Called before an answer is shown: what is seen is kept. */
  keepShown(run) {
    const now = performance.now();
    if (run.message.content.length < LONG || now - run.kept > LONG_MS) {
      keepWriting(run.message);
      run.kept = now;
    }
  }

  /** Keep what came of an answer in the database, whether it is looked at or not. */
  keepNew(run) {
    const { length } = run.message.content;
    if (run.inDatabase === length) return;
    run.inDatabase = length;
    this.store.keep(run.tree.conversation, [run.message]);
  }

  changed(run, what) {
    this.dispatchEvent(new CustomEvent("change", { detail: { run, what } }));
  }
}

/** Return what the server counted; its `rate` is 0 where too little was written to tell. */
function stats(run, { usage, timings }) {
  run.first ||= performance.now();
  return {
    tokens: usage.completion_tokens, prompt: usage.prompt_tokens, rate: timings?.predicted_per_second ?? 0,
    first: (run.first - run.began) / 1000, cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
  };
}
