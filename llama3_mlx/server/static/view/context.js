// How full the model's context is, and what to do when it is nearly full.

import { $, button } from "../lib/dom.js";
import { count } from "../lib/words.js";

const NEARLY = 0.85;

/** Show the fill of the context after the last counted answer; `goOn` begins a new conversation. */
export function showContext(path, length, goOn) {
  const last = path.findLast((message) => message.stats);
  const full = path.at(-1)?.code === "context_length_exceeded";
  const used = last ? last.stats.prompt + last.stats.tokens : 0;
  const fill = length ? used / length : 0;
  $("context").hidden = !used || !length;
  $("context-text").textContent = `${count(used)} of ${count(length)} tokens of context`;
  $("context-meter").value = Math.min(1, fill);
  const advice = $("context-advice");
  advice.hidden = fill < NEARLY && !full;
  if (advice.hidden) return advice.replaceChildren();
  const text = full || fill >= 1
    ? "The context is full: the model can't read more of this conversation. "
    : "The context is nearly full: soon the model can't read all of this conversation. ";
  advice.replaceChildren(text, button("Go on in a new one", "go-on-new", goOn), " takes the last question and answer along. Editing an earlier message makes room, too.");
}
