// Making and finding nodes. Text goes in by textContent alone, so it can't become markup.

export const $ = (id) => document.getElementById(id);

const ICONS = {
  menu: "M3 5h14M3 10h14M3 15h14",
  more: "M4.5 10h.01M10 10h.01M15.5 10h.01",
  close: "M5 5l10 10M15 5L5 15",
  clip: "M13.5 6.5l-6 6a1.8 1.8 0 002.5 2.5l6-6a3.5 3.5 0 00-5-5l-6 6a5.2 5.2 0 007.4 7.4l5-5",
  columns: "M3 4h14v12H3zM10 4v12",
  pin: "M7 3h6l-1 6 3 3H5l3-3zM10 12v5",
  file: "M5 2.5h7l3 3V17.5H5zM12 2.5v3h3",
  tool: "M12.5 3.5a4 4 0 00-4 5.3L3 14.3 5.7 17l5.5-5.5a4 4 0 005.3-5L14 9l-2.5-2.5L14 4a4 4 0 00-1.5-.5z",
};

/** Make an element with a class and a text. */
export function element(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

/** Make a button. `action` names it for whoever looks for it after its surroundings were drawn anew. */
export function button(text, action, act, { label = "", quiet = true, title = "" } = {}) {
  const node = element("button", quiet ? `quiet ${action}` : action, text);
  node.type = "button";
  node.dataset.action = action;
  if (label) node.setAttribute("aria-label", label);
  if (title) node.title = title;
  if (act) node.addEventListener("click", act);
  return node;
}

/** Make a picture that tells nothing which its surroundings don't say. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Copy a text; browsers give a clipboard only to pages of this machine or behind TLS. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copySelected(text);
  }
}

/** Have a button copy a text. */
export function copyOnClick(node, text) {
  node.addEventListener("click", async () => {
    await copyText(text());
    const before = node.textContent;
    node.textContent = "Copied";
    setTimeout(() => (node.textContent = before === "Copied" ? "Copy" : before), 1500);
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

/** Hand a text to the browser as a download. */
export function saveFile(name, text, type = "application/json") {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
