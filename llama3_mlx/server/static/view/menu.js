// A menu beside a button, and a question with two answers.

import { $, element } from "../lib/dom.js";

/** Open a menu; `items` are [text, action, isDangerous]. The focus comes back to the button. */
export function openMenu(anchor, items) {
  const menu = $("menu");
  const close = (back = true) => {
    menu.hidePopover();
    anchor.setAttribute("aria-expanded", "false");
    removeEventListener("pointerdown", outside, true);
    if (back && anchor.isConnected) anchor.focus();
  };
  const outside = (event) => { if (!menu.contains(event.target)) close(false); };
  menu.replaceChildren(...items.map(([text, act, dangerous]) => {
    const item = element("button", dangerous ? "danger" : "", text);
    item.type = "button";
    item.setAttribute("role", "menuitem");
    item.addEventListener("click", () => { close(); act(); });
    return item;
  }));
  menu.setAttribute("aria-label", anchor.getAttribute("aria-label"));
  menu.onkeydown = (event) => {
    const nodes = [...menu.children], at = nodes.indexOf(document.activeElement);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: nodes.length - 1 }[event.key];
    if (next !== undefined) nodes.at(next % nodes.length).focus();
    else if (event.key === "Escape" || event.key === "Tab") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const place = anchor.getBoundingClientRect();
  menu.showPopover();
  menu.style.left = `${Math.max(8, Math.min(place.right - menu.offsetWidth, innerWidth - menu.offsetWidth - 8))}px`;
  menu.style.top = `${Math.min(place.bottom + 4, innerHeight - menu.offsetHeight - 8)}px`;
  anchor.setAttribute("aria-expanded", "true");
  menu.firstElementChild.focus();
  addEventListener("pointerdown", outside, true);
}

/** Ask a question; returns whether it was answered with yes. */
export function ask(text, yes) {
  const dialog = $("confirm");
  $("confirm-text").textContent = text;
  $("confirm-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
