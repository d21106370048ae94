// localStorage, and where the browser forbids it or has no room in it, the page's memory.

const memory = new Map();
const kept = (() => {
  try {
    return globalThis.localStorage;
  } catch {
    return null;
  }
})();

export const local = {
  get: (name) => memory.get(name) ?? kept?.getItem(name) ?? null,

  /** Keep a text; returns whether it outlives the page. */
  set(name, text) {
    try {
      kept.setItem(name, text);
      memory.delete(name);
      return true;
    } catch {
      memory.set(name, text);
      return false;
    }
  },

  remove(name) {
    memory.delete(name);
    kept?.removeItem(name);
  },

  /** Return the names that begin with `prefix`. */
  names: (prefix) => [...new Set([...memory.keys(), ...Object.keys(kept ?? {})])].filter((name) => name.startsWith(prefix)),
};
