// Conversations and settings, kept in this browser and nowhere else.

const PREFIX = "llama3-mlx.";
const DEFAULTS = {
  model: "", system: "", temperature: "", top_p: "", min_p: "", max_tokens: "", seed: "", stop: "",
  use_schema: false, schema: "",
};

function read(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name)) ?? fallback;
  } catch {
    return fallback;
  }
}

/** Keep a value; returns false where the browser has no room or lets nothing be kept. */
function write(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

function kept() {
  return read("conversations", []).filter((entry) => entry && Array.isArray(entry.messages));
}

export class Store {
  constructor() {
    this.list = kept();
    this.currentId = read("current", null);
    this.defaults = { ...DEFAULTS, ...read("settings", {}) };
    if (!this.list.length) this.begin();
  }

  get current() {
    return this.list.find((entry) => entry.id === this.currentId) ?? this.list[0];
  }

  get settings() {
    return { ...DEFAULTS, ...this.current.settings };
  }

  /** Make an empty conversation with the settings that were used last. */
  fresh() {
    const id = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
    return { id, title: "", messages: [], settings: { ...this.defaults } };
  }

  /** Start a conversation with the settings that were used last; an empty one is used again. */
  begin() {
    const empty = this.list.find((entry) => !entry.messages.length);
    const fresh = empty ?? this.fresh();
    this.list = [fresh, ...this.list.filter((entry) => entry !== fresh)];
    this.select(fresh.id);
  }

  select(id) {
    this.currentId = id;
    write("current", id);
    this.save();
  }

  /** Take over what another tab has kept under a key; the current conversation stays this tab's. Returns whether it did. */
  adopt(key) {
    if (key !== PREFIX + "conversations") return false;
    const theirs = kept();
    const same = theirs.find((entry) => entry.id === this.current.id);
    // An empty conversation that the other tab has begun is left to it.
    const current = same?.messages.length && !this.current.messages.length ? this.fresh() : this.current;
    this.list = theirs.map((entry) => (entry.id === current.id ? current : entry));
    if (!this.list.includes(current)) this.list.unshift(current);
    this.currentId = current.id;
    return true;
  }

  remove(id) {
    this.list = this.list.filter((entry) => entry.id !== id);
    if (!this.list.length) this.begin();
    else if (this.currentId === id) this.select(this.list[0].id);
    this.save();
  }

  removeAll() {
    this.list = [];
    this.begin();
  }

  change(setting, value) {
    this.current.settings = { ...this.settings, [setting]: value };
    this.defaults = { ...this.current.settings };
    write("settings", this.defaults);
    this.save();
  }

  /** Keep the conversations; drops the oldest ones if the browser has no room for all. */
  save() {
    const kept = [...this.list];
    while (!write("conversations", kept) && kept.length > 1) kept.pop();
    return kept.length === this.list.length;
  }

  get key() {
    return read("key", "");
  }

  set key(value) {
    write("key", value);
  }
}
