// Search over titles and messages of all conversations.

import { $, button, element } from "../lib/dom.js";
import { counted, timeNode } from "../lib/words.js";
import { titleOf } from "./sidebar.js";

const WAIT_MS = 150, MAX_HITS = 60, AROUND = 40;

export class Search {
  constructor(store, { open, closed }) {
    this.store = store;
    this.open = open;
    this.round = 0;
    let timer = 0;
    $("search").addEventListener("input", () => {
      clearTimeout(timer);
      this.round += 1;
      if ($("search").value.trim()) timer = setTimeout(() => this.run($("search").value.trim()), WAIT_MS);
      else closed();
    });
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") { event.preventDefault(); $("conversations").querySelector("button, a")?.focus(); }
      if (event.key === "Escape" && $("search").value) { event.stopPropagation(); this.clear(); closed(); }
    });
  }

  clear() {
    this.round += 1;
    $("search").value = "";
  }

  /** Look through everything, the newest first, and show what is found as it is found. */
  async run(text) {
    const round = this.round, wanted = text.toLowerCase();
    const heading = element("p", "group", "Searching …"), list = element("ul");
    heading.setAttribute("role", "status");
    list.setAttribute("aria-label", "Found");
    $("conversations").replaceChildren(heading, list);
    let hits = 0;
    for (const conversation of this.store.list) {
      if (conversation.isNew) continue;
      const messages = await this.store.db.messagesOf(conversation.id);
      if (this.round !== round) return;
      const inTitle = conversation.title.toLowerCase().includes(wanted);
      const found = messages.filter(({ content }) => content.toLowerCase().includes(wanted));
      if (inTitle && !found.length) list.append(this.hit(conversation, null, wanted));
      list.append(...found.slice(0, MAX_HITS - hits).map((message) => this.hit(conversation, message, wanted)));
      hits += found.length || Number(inTitle);
      if (hits >= MAX_HITS) break;
    }
    heading.textContent = hits >= MAX_HITS ? `The first ${MAX_HITS} found` : `${counted(hits, "place")} found`;
  }

  hit(conversation, message, wanted) {
    const item = element("li", "hit");
    const go = button("", "hit", () => this.open(conversation, message));
    go.append(element("span", "hit-title", titleOf(conversation)), timeNode(message?.created ?? conversation.updated));
    if (message) go.append(snippet(message.content, wanted));
    item.append(go);
    return item;
  }
}

function snippet(text, wanted) {
  const at = text.toLowerCase().indexOf(wanted);
  const line = element("span", "snippet");
  line.dir = "auto";
  const from = Math.max(0, at - AROUND), end = at + wanted.length;
  line.append(from ? "…" : "", text.slice(from, at), element("mark", "", text.slice(at, end)), text.slice(end, end + AROUND));
  return line;
}
