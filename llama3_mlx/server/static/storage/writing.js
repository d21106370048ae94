// Answers while they are written: a copy in localStorage before each picture of them, since that is kept at once, whatever
// becomes of the page. IndexedDB gets them now and then, and at the end.

const PREFIX = "llama3-mlx.writing.";

/** Keep an unfinished answer; returns whether there was room for it. */
export function keepWriting(message) {
  try {
    localStorage.setItem(PREFIX + message.id, JSON.stringify(message));
    return true;
  } catch {
    return false;
  }
}

export function forgetWriting(id) {
  localStorage.removeItem(PREFIX + id);
}

/** Return all kept unfinished answers. */
export function keptWriting() {
  const found = [];
  for (const key of Object.keys(localStorage).filter((name) => name.startsWith(PREFIX))) {
    try {
      found.push(JSON.parse(localStorage.getItem(key)));
    } catch {
      localStorage.removeItem(key);
    }
  }
  return found.filter((message) => typeof message?.id === "string");
}
