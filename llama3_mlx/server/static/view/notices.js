// Short messages: a line of state, and notices that wait to be read, with what can still be undone.

import { $, button, element } from "../lib/dom.js";

/** Say what happens, where it doesn't matter if it is missed. */
export function announce(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

/** Show a notice until it is closed or another comes; `undo` adds a button. */
export function notify(text, undo = null) {
  const box = $("toast");
  const close = () => { box.hidden = true; box.replaceChildren(); };
  const nodes = [element("span", "", text)];
  if (undo) nodes.push(button("Undo", "undo", async () => { close(); await undo(); $("composer-text").focus(); }, { quiet: false }));
  nodes.push(button("×", "close-notice", () => { close(); $("composer-text").focus(); }, { label: "Close the notice" }));
  box.hidden = false;
  box.replaceChildren(...nodes);
}
