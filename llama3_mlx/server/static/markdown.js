// Markdown to DOM nodes, by createElement and textContent alone: text can't become markup, and nothing is loaded.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Bring `container` up to date with `source`; blocks whose text is the same keep their nodes. */
export function renderMarkdown(container, source) {
  const blocks = splitBlocks(source.split("\n"));
  blocks.forEach((block, index) => {
    const there = container.children[index];
    const key = block.kind + "\n" + block.lines.join("\n");
    if (there && there.markdown === key) return;
    const node = makeBlock(block);
    node.markdown = key;
    if (there) there.replaceWith(node);
    else container.append(node);
  });
  while (container.children.length > blocks.length) container.lastElementChild.remove();
}

/** Cut lines into blocks: {kind, lines, …}. */
function splitBlocks(lines) {
  const blocks = [];
  let at = 0;
  const take = (kind, more, test) => {
    const block = { kind, lines: [], ...more };
    while (at < lines.length && test(lines[at], block)) block.lines.push(lines[at++]);
    blocks.push(block);
  };
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (!line.trim()) at++;
    else if (fence) {
      at++;
      const end = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},}\\s*$`);
      take("code", { language: fence[2] }, (text) => !end.test(text));
      at++;
    } else if (HEADING.test(line)) take("heading", {}, (_, block) => !block.lines.length);
    else if (RULE.test(line)) take("rule", {}, (_, block) => !block.lines.length);
    else if (QUOTE.test(line)) take("quote", {}, (text) => QUOTE.test(text));
    else if (ITEM.test(line)) take("list", {}, (text, block) => listGoesOn(text, block, lines[at + 1]));
    else if (line.includes("|") && TABLE_RULE.test(lines[at + 1] ?? "")) take("table", {}, (text) => text.includes("|"));
    else take("paragraph", {}, (text, block) => text.trim() && (!block.lines.length || !beginsBlock(text)));
  }
  return blocks;
}

function listGoesOn(text, block, next) {
  if (!block.lines.length || ITEM.test(text) || /^\s{2,}\S/.test(text)) return true;
  return !text.trim() && next !== undefined && (ITEM.test(next) || /^\s{2,}\S/.test(next));
}

const beginsBlock = (text) =>
  FENCE.test(text) || HEADING.test(text) || RULE.test(text) || QUOTE.test(text) || ITEM.test(text);

function makeBlock(block) {
  const first = block.lines[0] ?? "";
  switch (block.kind) {
    case "code": return codeBlock(block.lines.join("\n"), block.language);
    case "heading": {
      const [, marks, text] = HEADING.exec(first);
      return withInline(document.createElement("h" + Math.min(4, marks.length)), text);
    }
    case "rule": return document.createElement("hr");
    case "quote": {
      const quote = document.createElement("blockquote");
      renderMarkdown(quote, block.lines.map((line) => QUOTE.exec(line)[1]).join("\n"));
      return quote;
    }
    case "list": return list(block.lines);
    case "table": return table(block.lines);
    default: return withInline(document.createElement("p"), block.lines.join("\n"));
  }
}

function codeBlock(text, language) {
  const box = element("div", "code-block");
  const header = element("header");
  const copy = element("button", "", "Copy");
  copy.type = "button";
  copyOnClick(copy, () => text);
  header.append(element("span", "", language || "text"), copy);
  const pre = element("pre");
  pre.tabIndex = 0;
  pre.append(element("code", "", text));
  box.append(header, pre);
  return box;
}

function list(lines) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const ordered = /\d/.test(mark);
  const node = document.createElement(ordered ? "ol" : "ul");
  if (ordered) node.start = parseInt(mark, 10);
  const items = [];
  for (const line of lines) {
    const match = ITEM.exec(line);
    if (match && match[1].length <= indent.length) items.push([match[3]]);
    else items.at(-1).push(line.replace(/^\s{1,4}/, ""));
  }
  for (const [head, ...rest] of items) {
    const item = withInline(document.createElement("li"), head);
    if (rest.some((line) => line.trim())) {
      const inner = document.createElement("div");
      renderMarkdown(inner, rest.join("\n"));
      item.append(...inner.childNodes);
    }
    node.append(item);
  }
  return node;
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, kind) => {
    const node = document.createElement("tr");
    for (const cell of cells(line)) node.append(withInline(document.createElement(kind), cell));
    return node;
  };
  const box = element("div", "table");
  const node = document.createElement("table");
  node.createTHead().append(row(lines[0], "th"));
  const body = node.createTBody();
  for (const line of lines.slice(2)) body.append(row(line, "td"));
  box.append(node);
  return box;
}

const INLINE = new RegExp([
  /(?<ticks>`+)(?<code>[^]*?[^`])\k<ticks>(?!`)/,
  /!?\[(?<label>[^\]]*)\]\((?<target>[^)\s]+)(?:\s+"[^"]*")?\)/,
  /(?<url>https?:\/\/[^\s<>)\]]*[^\s<>)\].,;:!?'"])/,
  /\*\*(?<strong>(?=\S)[^]*?\S)\*\*(?!\*)/,
  /~~(?<struck>(?=\S)[^]*?\S)~~/,
  /(?<![\w*])\*(?<em>(?=[^\s*])[^]*?[^\s*])\*(?![\w*])/,
  /(?<![\w_])_(?<em2>(?=[^\s_])[^]*?[^\s_])_(?![\w_])/,
  /\\(?<escaped>[\\`*_{}[\]()#+\-.!~|>])/,
].map((part) => part.source).join("|"), "g");

function withInline(node, text) {
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    node.append(text.slice(at, match.index), inline(match.groups));
    at = match.index + match[0].length;
  }
  node.append(text.slice(at));
  return node;
}

function inline(found) {
  if (found.code !== undefined) return element("code", "", found.code.trim() || found.code);
  if (found.target !== undefined) return link(found.target, found.label);
  if (found.url !== undefined) return link(found.url, found.url);
  if (found.strong !== undefined) return withInline(document.createElement("strong"), found.strong);
  if (found.struck !== undefined) return withInline(document.createElement("del"), found.struck);
  if (found.escaped !== undefined) return found.escaped;
  return withInline(document.createElement("em"), found.em ?? found.em2);
}

function link(target, label) {
  if (!/^(https?:\/\/|mailto:)/i.test(target)) return label || target;
  const node = element("a", "", label || target);
  node.href = target;
  node.target = "_blank";
  node.rel = "noopener noreferrer";
  return node;
}

/** Have a button copy a text; browsers give a clipboard only to pages of this machine or behind TLS. */
export function copyOnClick(button, text) {
  button.addEventListener("click", async () => {
    if (navigator.clipboard) await navigator.clipboard.writeText(text());
    else copySelected(text());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}

function copySelected(text) {
  const field = element("textarea", "hidden");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** Make an element with a class and a text. */
export function element(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}
