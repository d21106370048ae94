// IndexedDB with promises. Where a browser offers none (some private windows), the same calls on memory.

const NAME = "llama3-mlx", VERSION = 1;

/** Open the database; `isKept` of what comes back says whether it outlives the page. */
export async function openDatabase() {
  try {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      const db = request.result;
      db.createObjectStore("conversations", { keyPath: "id" });
      db.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
      db.createObjectStore("values");
    };
    const db = await settled(request);
    db.onversionchange = () => db.close();
    return new Database(db);
  } catch {
    return new MemoryDatabase();
  }
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another window keeps an older version open"));
  });
}

class Database {
  isKept = true;

  constructor(db) {
    this.db = db;
  }

  all(store) {
    return settled(this.db.transaction(store).objectStore(store).getAll());
  }

  messagesOf(conversation) {
    const index = this.db.transaction("messages").objectStore("messages").index("conversation");
    return settled(index.getAll(conversation));
  }

  value(key) {
    return settled(this.db.transaction("values").objectStore("values").get(key));
  }

  get(store, key) {
    return settled(this.db.transaction(store).objectStore(store).get(key));
  }

  /** Write and delete in one transaction: all of it, or nothing. */
  change({ conversations = [], messages = [], values = {}, drop = [] }) {
    const transaction = this.db.transaction(["conversations", "messages", "values"], "readwrite");
    const done = new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onerror = transaction.onabort = () => reject(transaction.error ?? new Error("the change was undone"));
    });
    for (const entry of conversations) transaction.objectStore("conversations").put(entry);
    for (const entry of messages) transaction.objectStore("messages").put(entry);
    for (const [key, value] of Object.entries(values)) transaction.objectStore("values").put(value, key);
    for (const id of drop) {
      transaction.objectStore("conversations").delete(id);
      const keys = transaction.objectStore("messages").index("conversation").getAllKeys(id);
      keys.onsuccess = () => { for (const key of keys.result) transaction.objectStore("messages").delete(key); };
    }
    return done;
  }
}

class MemoryDatabase {
  isKept = false;
  stores = { conversations: new Map(), messages: new Map(), values: new Map() };

  async all(store) {
    return [...this.stores[store].values()];
  }

  async messagesOf(conversation) {
    return (await this.all("messages")).filter((message) => message.conversation === conversation);
  }

  async value(key) {
    return this.stores.values.get(key);
  }

  async get(store, key) {
    return this.stores[store].get(key);
  }

  async change({ conversations = [], messages = [], values = {}, drop = [] }) {
    for (const entry of conversations) this.stores.conversations.set(entry.id, entry);
    for (const entry of messages) this.stores.messages.set(entry.id, entry);
    for (const [key, value] of Object.entries(values)) this.stores.values.set(key, value);
    for (const id of drop) {
      this.stores.conversations.delete(id);
      for (const message of await this.messagesOf(id)) this.stores.messages.delete(message.id);
    }
  }
}
