// Keys that do something anywhere on the page, and the sheet that lists them.

import { $, element } from "../lib/dom.js";

const SHEET = [
  ["Enter", "send the message"], ["Shift Enter", "begin a line"], ["↑ in an empty field", "edit the last message"],
  ["Escape", "stop writing; close what is open"], ["Ctrl Shift O", "new conversation"], ["Ctrl K", "search all conversations"],
  ["Alt ↑, Alt ↓", "next, previous conversation in the list"], ["Ctrl Shift L", "to the list of conversations"],
  ["↑, ↓, F2, Delete in the list", "move, rename, delete"], ["Ctrl Shift M", "models"], ["Ctrl ,", "settings"],
  ["Ctrl Shift ;", "copy the last answer"], ["? or Ctrl /", "this sheet"],
];

/** Set the keys up; `act` has one function for each name below. */
export function setUpShortcuts(act) {
  for (const [keys, what] of SHEET) {
    const term = element("dt");
    term.append(element("kbd", "", keys));
    $("shortcuts").append(term, element("dd", "", what));
  }
  const open = () => { if (!document.querySelector("dialog[open]")) $("help").showModal(); };
  $("open-help").addEventListener("click", open);
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.isComposing) return;
    const name = nameOf(event);
    if (name === "help") open();
    else if (name) act[name]();
    else return;
    event.preventDefault();
  });
}

function nameOf(event) {
  const { key, shiftKey: shift, altKey: alt } = event, command = event.ctrlKey || event.metaKey;
  const letter = key.toLowerCase();
  if (key === "Escape") return "escape";
  if (alt && !command && key === "ArrowUp") return "previous";
  if (alt && !command && key === "ArrowDown") return "next";
  if (command && shift) return { o: "begin", l: "list", m: "models", ";": "copy", ":": "copy" }[letter];
  if (command && !alt) return { k: "search", ",": "settings", "/": "help" }[letter];
  const writes = event.target.closest?.("input, textarea, select");
  return key === "?" && !writes ? "help" : undefined;
}
