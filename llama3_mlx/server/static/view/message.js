// One message on screen: who wrote it and when, its text, its calls and files, what can be done with it, its counts.

import { button, copyOnClick, element, icon } from "../lib/dom.js";
import { counted, timeNode } from "../lib/words.js";
import { describe } from "../chat/attachments.js";
import { renderMarkdown } from "../rich/markdown.js";
import { callList } from "./calls.js";
import { judgement, verdict } from "./verdicts.js";

const NAMES = { user: "You", tool: "Tool result" };
const REASONS = { length: "cut at the token limit", content_filter: "ended by the guard" };
const STATES = { stopped: "stopped", broken: "broken off when its page was closed", writing: "" };

/**
 * Return the node of a message. `view` has: versions, their place `at`, whether it `isLast`, the `run` that writes it,
 * whether anything in the conversation is `busy`, and `act(name, message, value)`.
 */
export function drawMessage(message, view) {
  const node = element("article", `message ${message.role}`);
  node.dataset.id = message.id;
  const name = NAMES[message.role] ?? (message.model || "Model");
  const head = element("div", "who");
  const title = element("h2", "", name);
  head.append(title, timeNode(message.created));
  const body = element("div", "body text");
  node.append(head, ...fileList(message), body);
  showText(node, message, view.run);
  node.append(...notes(message, view), tools(node, message, view));
  return node;
}

/** Bring the node's text up to date with the message. */
export function showText(node, message, run = null) {
  const body = node.querySelector(".body");
  const json = message.json && message.content;
  const text = json ? "```json\n" + pretty(message, run) + "\n```" : message.content;
  renderMarkdown(body, text, { unfinished: Boolean(run) });
  body.classList.toggle("none", !message.content);
}

/** Show finished JSON with line breaks, whatever the model wrote between its parts. */
function pretty({ content }, run) {
  if (run) return content;
  try {
    return JSON.stringify(JSON.parse(content), null, 2);
  } catch {
    return content;
  }
}

function fileList({ files = [] }) {
  return files.map((file) => {
    const box = element("details", "file");
    const head = element("summary");
    head.append(icon("file"), element("span", "", file.name), element("span", "faint", describe(file)));
    const pre = element("pre", "", file.text.slice(0, 20_000));
    pre.tabIndex = 0;
    box.append(head, pre);
    return box;
  });
}

function notes(message, view) {
  const nodes = [];
  if (message.role === "assistant" && message.json && message.content) nodes.push(element("p", "note", "JSON that follows the schema of this conversation"));
  if (message.calls?.length) nodes.push(callList(message, view));
  if (message.reason === "content_filter" || message.refusal) nodes.push(verdict(message));
  if (message.judged) nodes.push(judgement(message.judged));
  for (const note of message.notes ?? []) nodes.push(element("p", "note", note));
  if (message.error) nodes.push(element("p", "error", message.error));
  const nothing = !message.content && !message.calls?.length && !message.error && message.reason !== "content_filter";
  if (nothing && !view.run && message.role === "assistant") nodes.push(element("p", "note", message.state === "done" ? "The model wrote nothing." : "Nothing was written yet."));
  return nodes;
}

function tools(node, message, view) {
  const row = element("div", "tools");
  const act = (name, value) => view.act(name, message, value);
  if (view.versions.length > 1 && !view.inPair) row.append(versionSwitch(view, act));
  if (view.run) {
    row.append(element("span", "stage", view.run.elsewhere ? "Written in another window" : ""));
    return row;
  }
  if (message.role === "user") row.append(button("Edit", "edit", () => edit(node, message, act)));
  if (message.content) {
    const copy = button("Copy", "copy");
    copyOnClick(copy, () => message.content);
    row.append(copy);
    if (view.canJudge && message.content.trim()) row.append(button("Judge", "judge", () => act("judge"), { label: "Have the server's guard judge this message" }));
  }
  if (message.role === "assistant" && !view.busy) {
    const failed = message.error || (!message.content && !message.calls?.length);
    row.append(button(failed ? "Try again" : "Regenerate", "again", () => act("again")));
    const cut = message.reason === "length" || ["stopped", "broken", "error"].includes(message.state);
    if (view.isLast && cut && message.content && !message.json && !message.calls?.length) row.append(button("Continue", "go-on", () => act("continue")));
  }
  if (view.isPair) row.append(button("Go on with this answer", "keep", () => act("keep")));
  const said = statsText(message);
  if (said) row.append(element("span", "stats", said));
  return row;
}

function versionSwitch({ versions, at }, act) {
  const box = element("span", "versions");
  const step = (by) => {
    const text = by < 0 ? "‹" : "›";
    const there = button(text, by < 0 ? "earlier-version" : "later-version", () => act("choose", versions[at + by]), {
      label: by < 0 ? "Earlier version" : "Later version",
    });
    there.disabled = !versions[at + by];
    return there;
  };
  const place = element("span", "", `${at + 1}/${versions.length}`);
  place.setAttribute("aria-label", `Version ${at + 1} of ${versions.length}`);
  place.setAttribute("role", "img");
  box.append(step(-1), place, step(1));
  return box;
}

function statsText({ stats, reason, state }) {
  const parts = [];
  if (stats) {
    parts.push(counted(stats.tokens, "token"));
    if (stats.rate) parts.push(`${stats.rate.toFixed(1)} tokens/s`);
    if (stats.tokens) parts.push(`first after ${stats.first.toFixed(2)} s`);
    if (stats.cached) parts.push(`${stats.cached} of ${stats.prompt} prompt tokens cached`);
  }
  if (STATES[state]) parts.push(STATES[state]);
  if (REASONS[reason]) parts.push(REASONS[reason]);
  return parts.join(" · ");
}

/** Put a field in place of one's own message; sending it begins a branch there. */
function edit(node, message, act) {
  const field = element("textarea");
  field.value = message.content;
  field.dir = "auto";
  field.setAttribute("aria-label", "Edit the message");
  const row = element("div", "row");
  const old = [...node.childNodes];
  const back = () => { node.replaceChildren(...old); node.querySelector(".edit").focus(); };
  const submit = () => { if (field.value.trim()) act("edit", field.value); };
  row.append(button("Send", "send-edit", submit, { quiet: false }), button("Cancel", "cancel-edit", back));
  row.append(element("span", "note", "The earlier version and its answers stay."));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); back(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
  });
  node.replaceChildren(old[0], field, row);
  node.classList.add("editing");
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}
