// The field that messages are written in, with the files that go along.

import { $, button, element, icon } from "../lib/dom.js";
import { LONG_PASTE, describe, readFile } from "../chat/attachments.js";
import { draft, forgetDraft, keepFiles, keepText } from "../storage/drafts.js";
import { notify } from "./notices.js";

const ONLY_HERE = "The browser has no room for files that wait to be sent: closing the page loses them.";

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
    this.field.addEventListener("input", () => { this.fit(); keepText(this.id, this.field.value); });
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
    const { text, files } = draft(id);
    this.field.value = text;
    this.files = files;
    this.drawFiles();
    this.fit();
  }

  /** Forget what was sent, and go on in the conversation `id`. */
  clear(id) {
    forgetDraft(this.id);
    this.open(id);
  }

  put(text) {
    this.field.value = text;
    this.fit();
    keepText(this.id, text);
    this.field.focus();
  }

  /** Show the files and keep them until they are sent. */
  filesChanged() {
    this.drawFiles();
    return keepFiles(this.id, this.files);
  }

  fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight + 2}px`;
  }

  async addFiles(list) {
    const { id } = this, said = [], read = [];
    for (const file of list) {
      try {
        read.push(await readFile(file));
      } catch (error) {
        said.push(error.message);
      }
    }
    // Another conversation may have been opened meanwhile.
    const isHere = id === this.id, files = isHere ? this.files : draft(id).files;
    files.push(...read);
    if (!(isHere ? this.filesChanged() : keepFiles(id, files))) said.push(ONLY_HERE);
    if (said.length) notify(said.join(" "));
    if (isHere) this.field.focus();
  }

  paste(event) {
    const { files } = event.clipboardData, text = event.clipboardData.getData("text/plain");
    if (files.length && !text) this.addFiles(files);
    else if (text.length > LONG_PASTE) {
      this.files.push({ name: "pasted text", text });
      if (!this.filesChanged()) notify(ONLY_HERE);
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
        this.filesChanged();
        this.field.focus();
      }, { label: `Leave out ${file.name}` });
      item.append(icon("file"), element("span", "", file.name), element("span", "faint", describe(file)), remove);
      return item;
    }));
  }
}
