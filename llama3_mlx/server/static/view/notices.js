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
  const close = async (act) => {
    box.hidden = true;
    box.replaceChildren();
    await act?.();
    focusOnward();
  };
  const nodes = [element("span", "", text)];
  if (undo) nodes.push(button("Undo", "undo", () => close(undo), { quiet: false }));
  nodes.push(button("×", "close-notice", () => close(), { label: "Close the notice" }));
  // What lies outside an open dialog can be neither seen nor reached.
  const dialog = openDialog(), place = dialog ?? document.body;
  if (box.parentElement !== place) place.append(box);
  dialog?.addEventListener("close", () => document.body.append(box), { once: true });
  box.hidden = false;
  box.replaceChildren(...nodes);
}

const openDialog = () => [...document.querySelectorAll("dialog[open]")].at(-1);

/** Give the focus that a closed notice had to what can be reached. */
function focusOnward() {
  const isCovered = document.querySelector("main").inert;
  (openDialog()?.querySelector("button") ?? $(isCovered ? "new-chat" : "composer-text")).focus();
}
