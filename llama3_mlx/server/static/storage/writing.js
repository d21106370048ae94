// Answers while they are written: a copy in localStorage before each picture of them, since that is kept at once, whatever
// becomes of the page. IndexedDB gets them now and then, and at the end.

import { local } from "./local.js";

const PREFIX = "llama3-mlx.writing.";

/** Keep an unfinished answer. */
export const keepWriting = (message) => local.set(PREFIX + message.id, JSON.stringify(message));

export const forgetWriting = (id) => local.remove(PREFIX + id);

/** Return all kept unfinished answers. */
export function keptWriting() {
  const found = [];
  for (const name of local.names(PREFIX)) {
    try {
      found.push(JSON.parse(local.get(name)));
    } catch {
      local.remove(name);
    }
  }
  return found.filter((message) => typeof message?.id === "string");
}
