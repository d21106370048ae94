// The list of conversations: by date, pinned ones first; renamed in place.

import { $, button, element, icon } from "../lib/dom.js";
import { dateGroup } from "../lib/words.js";
import { openMenu } from "./menu.js";

export const titleOf = (conversation) => conversation.title || "New conversation";

export class Sidebar {
  constructor(store, runs, act) {
    this.store = store;
    this.runs = runs;
    this.act = act;
    $("conversations").addEventListener("keydown", (event) => this.walk(event));
  }

  draw() {
    if ($("search").value.trim()) return;
    const { list } = this.store;
    const key = JSON.stringify(list.map(({ id, title, pinned, updated }) => [id, title, pinned, dateGroup(updated), this.runs.of(id).length]));
    if (key === this.drawn && $("conversations").querySelector("[data-id]:not(:has(input))")) return this.mark();
    this.drawn = key;
    const focus = document.activeElement?.closest?.("#conversations") ? document.activeElement : null;
    const groups = new Map();
    for (const conversation of list) {
      const name = conversation.pinned ? "Pinned" : dateGroup(conversation.updated);
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(conversation);
    }
    const nodes = [...groups].flatMap(([name, list], place) => {
      const heading = element("h2", "group", name);
      heading.id = `group-${place}`;
      const items = element("ul");
      items.setAttribute("aria-labelledby", heading.id);
      items.append(...list.map((conversation) => this.item(conversation)));
      return [heading, items];
    });
    $("conversations").replaceChildren(...nodes);
    if (focus) this.focus(focus.closest("li")?.dataset.id, focus.dataset.action);
  }

  /** Mark the conversation that is looked at, where nothing else has changed. */
  mark() {
    const before = $("conversations").querySelector("li.current"), now = $("conversations").querySelector(`[data-id="${this.store.currentId}"]`);
    for (const [item, isCurrent] of [[before, false], [now, true]]) {
      item?.classList.toggle("current", isCurrent);
      if (isCurrent) item?.querySelector(".title")?.setAttribute("aria-current", "page");
      else item?.querySelector(".title")?.removeAttribute("aria-current");
    }
  }

  item(conversation) {
    const item = element("li", conversation.id === this.store.currentId ? "current" : "");
    item.dataset.id = conversation.id;
    const title = element("a", "title");
    title.append(element("span", "name", titleOf(conversation)));
    title.href = `#c-${conversation.id}`;
    title.dataset.action = "title";
    title.dir = "auto";
    if (conversation.id === this.store.currentId) title.setAttribute("aria-current", "page");
    title.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.act("open", conversation);
    });
    title.addEventListener("dblclick", () => this.rename(conversation.id));
    if (this.runs.of(conversation.id).length) {
      const sign = element("span", "writes", "writing");
      title.append(sign);
    }
    const more = button("", "more", () => this.menu(conversation, more), { label: `Actions for “${titleOf(conversation)}”` });
    more.append(icon("more"));
    more.setAttribute("aria-haspopup", "menu");
    more.setAttribute("aria-expanded", "false");
    item.append(title, more);
    return item;
  }

  menu(conversation, anchor) {
    openMenu(anchor, [
      ["Rename", () => this.rename(conversation.id)],
      [conversation.pinned ? "Unpin" : "Pin", () => this.act("pin", conversation)],
      ["Copy link", () => this.act("link", conversation)],
      ["Save as Markdown", () => this.act("markdown", conversation)],
      ["Delete", () => this.act("delete", conversation), true],
    ]);
  }

  /** Put a field in place of a title. */
  rename(id) {
    const item = $("conversations").querySelector(`[data-id="${id}"]`);
    const conversation = this.store.conversations.get(id);
    if (!item || !conversation) return;
    const field = element("input");
    field.value = conversation.title;
    field.dir = "auto";
    field.setAttribute("aria-label", "Name of the conversation");
    let done = false;
    const finish = (keep) => {
      if (done) return;
      done = true;
      if (keep && field.value.trim()) this.act("rename", conversation, field.value.trim());
      this.drawn = "";
      this.draw();
      this.focus(id, "title");
    };
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter" || event.key === "Escape") finish(event.key === "Enter");
    });
    field.addEventListener("blur", () => finish(true));
    item.replaceChildren(field);
    field.focus();
    field.select();
  }

  focus(id, action = "title") {
    $("conversations").querySelector(`[data-id="${id}"] [data-action="${action}"]`)?.focus();
  }

  /** Arrows go from conversation to conversation, F2 renames, Delete deletes. */
  walk(event) {
    const titles = [...$("conversations").querySelectorAll("[data-action=title]")];
    const at = titles.indexOf(event.target);
    if (at < 0) return;
    const conversation = this.store.conversations.get(event.target.closest("li").dataset.id);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: titles.length - 1 }[event.key];
    if (next !== undefined) titles.at(Math.min(next, titles.length - 1) % titles.length).focus();
    else if (event.key === "F2") this.rename(conversation.id);
    else if (event.key === "Delete") this.act("delete", conversation);
    else return;
    event.preventDefault();
  }
}
