// Code blocks: highlighted by highlight.js, which is loaded with the first one, with buttons to copy and to wrap.

import DOMPurify from "../vendor/dompurify/purify.js";
import { button, copyOnClick, element } from "../lib/dom.js";

// Beyond this length highlighting would be felt while it is written on.
const MAX_LIVE = 4000, MAX = 60_000;
let highlighter = null;
let loading = null;
let wraps = false;

/** Return the node of a code block. An `open` one is still written; `there`, its earlier node, is used again. */
export function codeBlock(text, language, { open = false, there = null } = {}) {
  const again = there?.classList.contains("code-block") && there.dataset.language === language;
  const box = again ? there : frame(language);
  box.source = text;
  const code = box.querySelector("code");
  code.textContent = text;
  if (text.length < (open ? MAX_LIVE : MAX)) highlight(code, text, language);
  return box;
}

function frame(language) {
  const box = element("div", "code-block");
  box.dataset.language = language;
  box.dir = "ltr";
  const header = element("div", "code-header");
  const wrap = button("Wrap", "wrap", () => {
    wraps = box.classList.toggle("wraps");
    wrap.setAttribute("aria-pressed", String(wraps));
  });
  wrap.setAttribute("aria-pressed", String(wraps));
  const copy = button("Copy", "copy-code");
  copyOnClick(copy, () => box.source);
  header.append(element("span", "", language || "text"), wrap, copy);
  const pre = element("pre");
  pre.tabIndex = 0;
  pre.append(element("code"));
  box.append(header, pre);
  box.classList.toggle("wraps", wraps);
  return box;
}

function highlight(code, text, language) {
  if (!highlighter) {
    load().then(() => { if (code.textContent === text) highlight(code, text, language); });
    return;
  }
  if (!highlighter.getLanguage(language)) return;
  const { value } = highlighter.highlight(text, { language, ignoreIllegals: true });
  code.replaceChildren(
    DOMPurify.sanitize(value, { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true }),
  );
}

function load() {
  loading ??= import("../vendor/highlight/highlight.js").then((module) => { highlighter = module.default; });
  return loading;
}
