// One message on screen: its text, what can be done with it, its counts.

import { copyOnClick, element, renderMarkdown } from "./markdown.js";

/** Return the node of a message. `actions` has `edit(text)` and `again()` where they apply. */
export function drawMessage(message, actions) {
  const node = element("article", `message ${message.role}`);
  node.append(element("div", "who", message.role === "user" ? "You" : "Model"));
  const body = element("div", message.role === "user" ? "body" : "body text");
  node.append(body);
  showText(node, message, message.json);
  node.append(tools(node, message, actions));
  return node;
}

/** Bring the node's text up to date with the message. */
export function showText(node, message, json = false) {
  const body = node.querySelector(".body");
  if (message.role === "user") body.textContent = message.content;
  else renderMarkdown(body, json ? "```json\n" + message.content + "\n```" : message.content);
  message.json = json;
  body.classList.toggle("waiting", message.role !== "user" && !message.content && !message.error);
}

function tools(node, message, actions) {
  const row = element("div", "tools");
  const add = (text, name, act) => {
    const button = element("button", name, text);
    button.type = "button";
    if (act) button.addEventListener("click", act);
    row.append(button);
    return button;
  };
  if (message.error) node.append(element("p", "error", message.error));
  if (actions.edit) add("Edit", "edit", () => edit(node, message, actions.edit));
  if (message.content) copyOnClick(add("Copy", "copy"), () => message.content);
  if (actions.again) add(message.error ? "Try again" : "Regenerate", "again", actions.again);
  if (message.stats) row.append(element("span", "stats", statsText(message)));
  else if (message.stopped) row.append(element("span", "stats", "stopped"));
  return row;
}

function statsText({ stats, cut }) {
  const parts = [`${stats.tokens} tokens`, `${stats.rate.toFixed(1)} tokens/s`, `first after ${stats.first.toFixed(2)} s`];
  if (stats.cached) parts.push(`${stats.cached} of ${stats.prompt} prompt tokens cached`);
  if (cut) parts.push("cut at the token limit");
  return parts.join(" · ");
}

/** Put a field in place of one's own message; sending it starts anew from there. */
function edit(node, message, send) {
  const field = element("textarea");
  field.value = message.content;
  field.setAttribute("aria-label", "Edit the message");
  const row = element("div", "row");
  const done = element("button", "", "Send");
  const cancel = element("button", "quiet", "Cancel");
  done.type = cancel.type = "button";
  row.append(done, cancel);
  const old = [...node.childNodes];
  const back = () => { node.replaceChildren(...old); node.querySelector(".edit").focus(); };
  const submit = () => { if (field.value.trim()) send(field.value); };
  done.addEventListener("click", submit);
  cancel.addEventListener("click", back);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); back(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
  });
  node.replaceChildren(old[0], field, row);
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}
