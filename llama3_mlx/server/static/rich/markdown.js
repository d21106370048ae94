// Markdown to nodes: marked reads it, DOMPurify lets through only what is listed here, KaTeX and highlight.js draw.
// Text can't become markup that does anything: no attribute of an answer's own HTML is kept, nothing is loaded.

import DOMPurify from "../vendor/dompurify/purify.js";
import { Lexer, Marked } from "../vendor/marked/marked.js";
import { element } from "../lib/dom.js";
import { codeBlock } from "./code.js";
import { MAX_FORMULAS, drawMath, mathExtensions } from "./math.js";

// Tags that GitHub's Markdown lets through and that mean something without attributes; all others show as text.
const PLAIN = "b|br|dd|del|details|div|dl|dt|em|hr|i|ins|kbd|li|mark|ol|p|q|s|samp|small|strong|sub|summary|sup|u|ul|var";
const PLAIN_TAG = new RegExp(`&lt;(/?)(${PLAIN})\\s*(/?)&gt;`, "gi");
const POLICY = {
  ALLOWED_TAGS: [
    ...PLAIN.split("|"), "a", "blockquote", "code", "h3", "h4", "h5", "h6", "input", "pre", "span", "table", "tbody", "td",
    "th", "thead", "tr",
  ],
  ALLOWED_ATTR: ["align", "checked", "class", "data-display", "data-language", "disabled", "href", "start", "type"],
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  // DOMPurify holds every value to that rule but for those that are no address.
  ADD_URI_SAFE_ATTR: ["align", "checked", "disabled", "start", "type"],
  RETURN_DOM_FRAGMENT: true,
};

const escape = (text) =>
  text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

/** Show an answer's own HTML as text, but for tags that only shape text. */
function harmless(html) {
  const shown = html.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  return shown.replace(PLAIN_TAG, "<$1$2$3>");
}

// Beyond these, reading Markdown would be felt or fail; the text, or that part of it, stands as it is. Lengths in characters.
const MAX_RICH = 300_000, MAX_INLINE = 20_000;
const TOO_DEEP = /^(?:[ \t]*(?:>|(?:[-*+]|\d{1,9}[.)])[ \t])){40}|^[ \t]{160,}(?:[-*+>]|\d{1,9}[.)])/m;

class CautiousLexer extends Lexer {
  inlineTokens(source, tokens = []) {
    if (source.length <= MAX_INLINE) return super.inlineTokens(source, tokens);
    for (const line of source.split("\n")) tokens.push({ type: "text", raw: line, text: line }, { type: "br", raw: "\n" });
    tokens.pop();
    return tokens;
  }
}

const marked = new Marked({ gfm: true, breaks: true });
marked.use({
  extensions: mathExtensions(escape),
  renderer: {
    html: ({ text, raw }) => harmless(raw ?? text),
    code: ({ text, lang }) =>
      `<pre><code data-language="${escape((lang ?? "").match(/^\S*/)[0])}">${escape(text)}</code></pre>`,
    // A picture would be a request to another server.
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || "picture")}</a>`,
    heading({ tokens, depth }) {
      return `<h${depth}x>${this.parser.parseInline(tokens)}</h${depth}x>`;
    },
  },
});

/** Bring `container` up to date with `source`; blocks whose text is the same keep their nodes. */
export function renderMarkdown(container, source, { unfinished = false } = {}) {
  const tokens = read(source).filter((token) => token.type !== "space" && token.type !== "def");
  const top = Math.min(...tokens.filter(({ type }) => type === "heading").map(({ depth }) => depth));
  tokens.forEach((token, index) => {
    const there = container.children[index];
    const open = unfinished && index === tokens.length - 1;
    const key = `${token.type} ${open} ${top} ${token.raw}`;
    if (there?.markdown === key) return;
    const node = makeBlock(token, top, open, there);
    const room = MAX_FORMULAS - container.querySelectorAll(".math.drawn").length;
    const formulas = node.matches(".math") ? [node] : [...node.getElementsByClassName("math")];
    for (const formula of formulas.slice(0, Math.max(0, room))) drawMath(formula);
    node.markdown = key;
    if (!there) container.append(node);
    else if (there !== node) there.replaceWith(node);
  });
  while (container.children.length > tokens.length) container.lastElementChild.remove();
}

function read(source) {
  const asItIs = [{ type: "plain", raw: source }];
  if (source.length > MAX_RICH || TOO_DEEP.test(source)) return asItIs;
  try {
    return new CautiousLexer(marked.defaults).lex(source);
  } catch (error) {
    if (error instanceof RangeError) return asItIs;
    throw error;
  }
}

/** Return the node of one block; `there` is its earlier node, which a code block goes on in. */
function makeBlock(token, top, open, there) {
  if (token.type === "code") return codeBlock(token.text, (token.lang ?? "").match(/^\S*/)[0], { open, there });
  if (token.type === "plain") {
    const box = element("div", "plain", token.raw);
    box.dir = "auto";
    return box;
  }
  const html = marked.parser([token])
    // The first level of a message's headings stands below the message's own.
    .replace(/<(\/?)h([1-6])x>/g, (_, end, depth) => `<${end}h${Math.min(6, 3 + Math.max(0, depth - top))}>`);
  const fragment = DOMPurify.sanitize(html, POLICY);
  for (const node of fragment.querySelectorAll("*")) finish(node);
  const nodes = [...fragment.childNodes].filter((node) => node.nodeType === Node.ELEMENT_NODE || node.textContent.trim());
  if (nodes.length === 1 && nodes[0].nodeType === Node.ELEMENT_NODE) return nodes[0];
  const box = element("div");
  box.append(fragment);
  return box;
}

function finish(node) {
  switch (node.localName) {
    case "a":
      if (node.hasAttribute("href")) Object.assign(node, { target: "_blank", rel: "noopener noreferrer" });
      break;
    case "p": case "ul": case "ol": case "blockquote": case "h3": case "h4": case "h5": case "h6":
      // Each block runs as its own first letter does; what stands in a list or a quote runs with that.
      if (!node.parentElement?.closest("li, blockquote")) node.dir = "auto";
      break;
    case "input":
      node.disabled = true;
      node.setAttribute("aria-label", node.checked ? "done" : "not done");
      break;
    case "pre": {
      const code = node.querySelector("code");
      node.replaceWith(codeBlock(node.textContent, code?.dataset.language ?? ""));
      break;
    }
    case "table": {
      const box = element("div", "table");
      box.tabIndex = 0;
      node.dir = "auto";
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", "Table");
      node.replaceWith(box);
      box.append(node);
    }
  }
}
