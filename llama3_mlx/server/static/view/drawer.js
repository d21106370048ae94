// The list of conversations on a narrow window, where it lies over the messages.

import { $, icon } from "../lib/dom.js";

export class Drawer {
  constructor() {
    $("open-sidebar").append(icon("menu"));
    $("open-sidebar").addEventListener("click", () => this.open());
    $("shade").addEventListener("click", () => this.close());
    matchMedia("(max-width: 720px)").addEventListener("change", () => this.close());
  }

  get isOpen() {
    return $("sidebar").classList.contains("open");
  }

  open() {
    if (getComputedStyle($("open-sidebar")).display === "none") return;
    $("sidebar").classList.add("open");
    $("shade").hidden = false;
    document.querySelector("main").inert = true;
    $("open-sidebar").setAttribute("aria-expanded", "true");
    $("new-chat").focus();
  }

  close() {
    if (!this.isOpen) return;
    $("sidebar").classList.remove("open");
    $("shade").hidden = true;
    document.querySelector("main").inert = false;
    $("open-sidebar").setAttribute("aria-expanded", "false");
    $("open-sidebar").focus();
  }
}
