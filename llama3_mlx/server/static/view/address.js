// The address of a conversation, #c-<id>; one that hasn't begun has none.

/** Return the id that the address names: "" for a conversation that hasn't begun, null where it names none of ours. */
export function addressed() {
  if (location.hash.startsWith("#c-")) return location.hash.slice(3);
  return location.hash ? null : "";
}

/** Show the address of a conversation: as a "push", which the browser's back button goes back from, or a "replace". */
export function address({ id, isNew }, step) {
  if (addressed() !== (isNew ? "" : id)) history[`${step}State`](null, "", isNew ? location.pathname : `#c-${id}`);
}

/** Call `go(id)` when the browser goes to another address than that of the conversation `current()`. */
export function whenGone(current, go) {
  addEventListener("hashchange", () => {
    const id = addressed(), { id: here, isNew } = current();
    if (id !== null && id !== (isNew ? "" : here)) go(id);
  });
}
