// What was begun in the field of a conversation and not sent: its text and, apart since they are long, its files.

import { local } from "./local.js";

const TEXT = "llama3-mlx.draft.", FILES = "llama3-mlx.files.";
/** The draft of the conversation that hasn't begun. */
export const OF_NEW = "new";

export function draft(id) {
  const kept = read(TEXT + id) ?? {};
  // Earlier versions kept the files with the text.
  return { text: kept.text ?? "", files: read(FILES + id) ?? kept.files ?? [] };
}

/** Keep a text, or its files; both return whether that outlives the page. */
export const keepText = (id, text) => keep(TEXT + id, text && { text });
export const keepFiles = (id, files) => keep(FILES + id, files.length && files);

export function forgetDraft(id) {
  local.remove(TEXT + id);
  local.remove(FILES + id);
}

/** Forget the drafts of conversations that are gone; `isThere(id)` says which are not. */
export function forgetOthers(isThere) {
  for (const prefix of [TEXT, FILES]) {
    for (const id of local.names(prefix).map((name) => name.slice(prefix.length))) if (id !== OF_NEW && !isThere(id)) forgetDraft(id);
  }
}

function keep(name, value) {
  if (value) return local.set(name, JSON.stringify(value));
  local.remove(name);
  return true;
}

function read(name) {
  try {
    return JSON.parse(local.get(name));
  } catch {
    return null;
  }
}
