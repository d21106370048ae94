// The messages of the conversation that is looked at. Only what changed is drawn anew; of a long one, its end at first.

import { $, element } from "../lib/dom.js";
import { count, counted } from "../lib/words.js";
import { drawMessage, showText } from "./message.js";

const FIRST = 10, MORE = 40;

export class Thread {
  /** `hasGuard()` says whether the server can judge a message. */
  constructor(runs, act, hasGuard) {
    this.runs = runs;
    this.hasGuard = hasGuard;
    this.act = act;
    this.hidden = 0;
    this.nodes = new Map();
    this.pending = 0;
    this.sticks = true;
    $("earlier").addEventListener("click", () => this.showEarlier());
    $("to-end").addEventListener("click", () => { this.toEnd(); $("composer-text").focus(); });
    $("scroll").addEventListener("scroll", () => this.scrolled(), { passive: true });
    setInterval(() => this.showStages(), 500);
  }

  /** Show another conversation, from its end, or so that one message of it is seen. */
  open(tree, messageId = "") {
    const path = tree.path();
    const place = path.findIndex(({ id }) => id === messageId);
    const last = Math.max(0, path.length - FIRST);
    this.hidden = place < 0 ? last : Math.max(0, Math.min(last, place - 2));
    this.nodes.clear();
    $("messages").replaceChildren();
    this.sticks = place < 0;
    this.draw(tree);
    if (place < 0) this.toEnd();
    else {
      const node = this.nodes.get(messageId).node;
      node.scrollIntoView({ block: "center" });
      node.classList.add("found");
    }
  }

  /** Bring what is shown up to date with the tree. */
  draw(tree) {
    this.tree = tree;
    const path = tree.path();
    const pair = tree.pair(path.at(-1));
    const single = pair ? path.slice(0, -1) : path;
    const from = this.hidden = Math.min(this.hidden, Math.max(0, path.length - FIRST));
    const busy = this.runs.of(tree.conversation.id).length > 0;
    const focus = this.focused();
    const nodes = single.slice(from).map((message) => this.nodeOf(message, busy, message === path.at(-1), null));
    if (pair) {
      const box = element("div", "pair");
      box.append(...pair.map((message) => this.nodeOf(message, busy, true, pair)));
      nodes.push(box);
    }
    replaceChanged($("messages"), nodes);
    for (const id of this.nodes.keys()) if (!path.some((message) => message.id === id) && !pair?.some((message) => message.id === id)) this.nodes.delete(id);
    $("earlier").hidden = !from;
    $("earlier").textContent = `Show earlier messages (${count(from)})`;
    $("empty").hidden = path.length > 0;
    $("messages").setAttribute("aria-busy", String(busy));
    this.refocus(focus);
    this.showStages();
    if (this.sticks) this.toEnd();
  }

  nodeOf(message, busy, isLast, pair) {
    const versions = this.tree.versions(message);
    const run = this.runs.running.get(message.id) ?? (message.state === "writing" ? { elsewhere: true } : null);
    const view = { versions, at: versions.indexOf(message), isLast, inPair: Boolean(pair), isPair: Boolean(pair) && !busy, run, busy, act: this.act, canJudge: this.hasGuard() };
    const { content, state, error, calls, reason, refusal, stats, judged } = message;
    const key = JSON.stringify([run && !run.elsewhere ? "" : content, state, error, calls, reason, refusal, stats, judged, view.canJudge, versions.length, view.at, isLast, view.inPair, busy, Boolean(run)]);
    const known = this.nodes.get(message.id);
    if (known?.key === key) return known.node;
    if (known?.node.classList.contains("editing")) return known.node;
    const node = drawMessage(message, view);
    this.nodes.set(message.id, { node, key });
    return node;
  }

  /** Show more of an answer that is being written, at the next picture. */
  update(run) {
    this.pending ||= requestAnimationFrame(() => {
      this.pending = 0;
      const began = performance.now();
      for (const other of this.runs.of(this.tree.conversation.id)) this.showMore(other);
      if (this.sticks) this.toEnd();
      // What is slow to draw is drawn less often, so that typing and scrolling stay smooth.
      const spent = performance.now() - began;
      if (spent > 6) this.pending = setTimeout(() => { this.pending = 0; this.update(run); }, spent * 4) && 1;
    });
  }

  showMore(run) {
    const known = this.nodes.get(run.message.id);
    if (!known || run.drawn === run.message.content.length) return;
    this.runs.keepShown(run);
    run.drawn = run.message.content.length;
    showText(known.node, run.message, run);
  }

  /** Say of each answer that is being written what happens. */
  showStages() {
    for (const run of this.tree ? this.runs.of(this.tree.conversation.id) : []) {
      const line = this.nodes.get(run.message.id)?.node.querySelector(".stage");
      if (line) line.textContent = stageText(run, this.runs);
    }
  }

  showEarlier() {
    const box = $("scroll"), below = box.scrollHeight - box.scrollTop, first = $("messages").firstElementChild;
    this.hidden = Math.max(0, this.hidden - MORE);
    this.sticks = false;
    this.draw(this.tree);
    box.scrollTop = box.scrollHeight - below;
    if ($("earlier").hidden) first?.querySelector("button")?.focus({ preventScroll: true });
  }

  scrolled() {
    const box = $("scroll");
    this.sticks = box.scrollHeight - box.scrollTop - box.clientHeight < 120;
    $("to-end").hidden = this.sticks;
    if (box.scrollTop < 200 && !$("earlier").hidden && !this.sticks) this.showEarlier();
  }

  toEnd() {
    this.sticks = true;
    $("to-end").hidden = true;
    $("scroll").scrollTop = $("scroll").scrollHeight;
  }

  /** Name what has the focus within the messages, so that its successor can get it. */
  focused() {
    const at = document.activeElement, message = at?.closest?.("#messages .message");
    if (!message) return null;
    return { node: at, action: at.dataset.action, place: [...$("messages").querySelectorAll(".message")].indexOf(message) };
  }

  refocus(focus) {
    if (!focus || focus.node.isConnected) return;
    const message = $("messages").querySelectorAll(".message")[focus.place];
    const there = message?.querySelector(`[data-action="${focus.action}"]:not(:disabled)`) ?? message?.querySelector(".versions button:not(:disabled)");
    (there ?? $("composer-text")).focus({ preventScroll: true });
  }
}

/** Put nodes into a box; those that stand in their place stay untouched. */
function replaceChanged(box, nodes) {
  nodes.forEach((node, place) => {
    if (box.children[place] !== node) box.insertBefore(node, box.children[place] ?? null);
  });
  while (box.children.length > nodes.length) box.lastElementChild.remove();
}

function stageText(run, runs) {
  const seconds = (performance.now() - run.began) / 1000;
  const since = seconds > 2 ? ` ${seconds.toFixed(0)} s` : "";
  const { kind, waiting, processed, total } = run.stage;
  switch (kind) {
    case "loading": return `Loading the model …${since}`;
    case "accepted": return waiting ? `Waiting in the queue, ${counted(waiting, "request")} there …${since}` : `Reading the prompt …${since}`;
    case "prompt": return `Reading the prompt: ${count(processed)} of ${counted(total, "token")}${since}`;
    case "writing": {
      const rate = runs.rate(run);
      return rate ? `Writing, about ${rate.toFixed(1)} tokens/s` : "Writing …";
    }
    default: return `Asking the server …${since}`;
  }
}
