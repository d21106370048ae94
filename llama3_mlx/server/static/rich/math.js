// Formulas: $…$, $$…$$, \(…\) and \[…\] are found in Markdown and drawn by KaTeX, which is loaded with the first one.

let katex = null;
let loading = null;

const INLINE = [
  { rule: /^\$\$([^]+?)\$\$/, display: true },
  { rule: /^\\\[([^]+?)\\\]/, display: true },
  { rule: /^\\\(([^]+?)\\\)/, display: false },
  // As Pandoc reads it: no space within the signs, no digit behind them, so that "$5 to $10" stays text.
  { rule: /^\$(?![\s$])((?:\\[^]|[^\\$\n])*?[^\\\s$])\$(?!\d)/, display: false },
];
const BLOCK = [/^ {0,3}\$\$([^]+?)\$\$ *(?:\n+|$)/, /^ {0,3}\\\[([^]+?)\\\] *(?:\n+|$)/];

/** Return marked's extensions; `escape` makes a text safe within HTML. */
export function mathExtensions(escape) {
  const renderer = ({ tex, display }) =>
    `<span class="math"${display ? ' data-display="1"' : ""}>${escape(tex.trim())}</span>`;
  const inline = {
    name: "inlineMath",
    level: "inline",
    start: (text) => text.match(/\$|\\[([]/)?.index,
    tokenizer(text) {
      for (const { rule, display } of INLINE) {
        const match = rule.exec(text);
        if (match) return { type: "inlineMath", raw: match[0], tex: match[1], display };
      }
      return undefined;
    },
    renderer,
  };
  const block = {
    name: "blockMath",
    level: "block",
    start: (text) => text.match(/\n {0,3}(?:\$\$|\\\[)/)?.index,
    tokenizer(text) {
      for (const rule of BLOCK) {
        const match = rule.exec(text);
        if (match) return { type: "blockMath", raw: match[0], tex: match[1], display: true };
      }
      return undefined;
    },
    renderer,
  };
  return [block, inline];
}

// Longer ones, in characters, aren't written by hand, and would be felt. Nodes nested more deeply crash the page in Chromium.
const MAX_LENGTH = 4000, MAX_DEPTH = 300;
/** So many formulas of a message are drawn: more would be felt. */
export const MAX_FORMULAS = 500;

/** Draw the formula that a node holds as text; until KaTeX is there, and where it can't, the text stands. */
export function drawMath(node) {
  const tex = node.textContent;
  if (tex.length > MAX_LENGTH) return;
  node.classList.add("drawn");
  if (katex) draw(node, tex);
  else load().then(() => draw(node, tex));
}

function draw(node, tex) {
  const displayMode = Boolean(node.dataset.display), drawn = document.createElement("span");
  try {
    // No link, no colour box of any size, no macro that goes on for ever.
    katex.render(tex, drawn, { displayMode, throwOnError: true, trust: false, strict: false, maxSize: 20, maxExpand: 500 });
    if (isDeep(drawn)) throw new Error("nested too deeply to be drawn");
    node.replaceChildren(...drawn.childNodes);
    node.classList.toggle("display", displayMode);
    if (displayMode) node.tabIndex = 0;
  } catch (error) {
    node.textContent = tex;
    node.classList.add("bad");
    node.title = error.message;
  }
}

function isDeep(node) {
  let level = [node], depth = 0;
  for (; level.length && depth <= MAX_DEPTH; depth++) level = level.flatMap(({ children }) => [...children]);
  return depth > MAX_DEPTH;
}

function load() {
  loading ??= (async () => {
    const sheet = document.createElement("link");
    sheet.rel = "stylesheet";
    sheet.href = new URL("../vendor/katex/katex.css", import.meta.url).href;
    document.head.append(sheet);
    await import("../vendor/katex/katex.js");
    katex = globalThis.katex;
  })();
  return loading;
}
