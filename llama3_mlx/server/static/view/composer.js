// The field that messages are written in, with the files that go along.

import { $, button, element, icon } from "../lib/dom.js";
import { LONG_PASTE, describe, readFile } from "../chat/attachments.js";
import { notify } from "./notices.js";

const DRAFT = "llama3-mlx.draft.";

export class Composer {
  constructor({ send, editLast }) {
    this.field = $("composer-text");
    this.files = [];
    this.id = "";
    this.attachIcons();
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.field.value.trim() || this.files.length) send(this.field.value.trim(), this.files);
    });
    this.field.addEventListener("input", () => { this.fit(); this.keep(); });
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        $("composer").requestSubmit();
      }
      if (event.key === "ArrowUp" && !this.field.value && editLast()) event.preventDefault();
    });
    $("attach").addEventListener("click", () => $("file-field").click());
    $("file-field").addEventListener("change", () => { this.addFiles($("file-field").files); $("file-field").value = ""; });
    this.field.addEventListener("paste", (event) => this.paste(event));
    this.acceptDrops();
  }

  attachIcons() {
    $("attach").append(icon("clip"));
  }

  /** Show what was begun in a conversation and not sent. */
  open(id) {
    this.id = id;
    let kept = {};
    try {
      kept = JSON.parse(localStorage.getItem(DRAFT + id)) ?? {};
    } catch {
      // What can't be read was no draft of ours.
    }
    this.field.value = kept.text ?? "";
    this.files = kept.files ?? [];
    this.drawFiles();
    this.fit();
  }

  clear() {
    localStorage.removeItem(DRAFT + this.id);
    this.open(this.id);
  }

  put(text) {
    this.field.value = text;
    this.fit();
    this.keep();
    this.field.focus();
  }

  keep() {
    if (!this.field.value && !this.files.length) return localStorage.removeItem(DRAFT + this.id);
    try {
      localStorage.setItem(DRAFT + this.id, JSON.stringify({ text: this.field.value, files: this.files }));
    } catch {
      // It still stands in the field.
    }
  }

  fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight + 2}px`;
  }

  async addFiles(list) {
    const refused = [];
    for (const file of list) {
      try {
        this.files.push(await readFile(file));
      } catch (error) {
        refused.push(error.message);
      }
    }
    this.drawFiles();
    this.keep();
    if (refused.length) notify(refused.join(" "));
    this.field.focus();
  }

  paste(event) {
    const { files } = event.clipboardData, text = event.clipboardData.getData("text/plain");
    if (files.length && !text) this.addFiles(files);
    else if (text.length > LONG_PASTE) {
      this.files.push({ name: "pasted text", text });
      this.drawFiles();
      this.keep();
    } else return;
    event.preventDefault();
  }

  acceptDrops() {
    const main = document.querySelector("main");
    main.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      main.classList.add("dropping");
    });
    main.addEventListener("dragleave", (event) => { if (!main.contains(event.relatedTarget)) main.classList.remove("dropping"); });
    main.addEventListener("drop", (event) => {
      main.classList.remove("dropping");
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      this.addFiles(event.dataTransfer.files);
    });
  }

  drawFiles() {
    $("files").hidden = !this.files.length;
    $("files").replaceChildren(...this.files.map((file, place) => {
      const item = element("li", "chip");
      const remove = button("×", "remove-file", () => {
        this.files.splice(place, 1);
        this.drawFiles();
        this.keep();
        this.field.focus();
      }, { label: `Leave out ${file.name}` });
      item.append(icon("file"), element("span", "", file.name), element("span", "faint", describe(file)), remove);
      return item;
    }));
  }
}
