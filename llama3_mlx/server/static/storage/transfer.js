// Everything that this browser keeps, as one file, and back.

import { fromOlderList } from "./migration.js";

const FORMAT = "llama3-mlx conversations", VERSION = 2;

/** Return the text of a file with all conversations, presets and defaults; the API key stays out of it. */
export async function exported(store) {
  const [conversations, messages] = await Promise.all([store.db.all("conversations"), store.db.all("messages")]);
  const { defaults, presets } = store;
  return JSON.stringify({ format: FORMAT, version: VERSION, saved: new Date().toISOString(), conversations, messages, defaults, presets }, null, 1);
}

/** Read such a file, or one of an earlier version; returns what it holds, or throws an Error that says what is wrong. */
export function readExport(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error("The file is no JSON, so nothing was taken from it.");
  }
  if (Array.isArray(value)) return { ...fromOlderList(value), presets: [] };
  if (value?.format !== FORMAT) throw new Error("The file holds no conversations of this page; nothing was taken from it.");
  if (value.version > VERSION) throw new Error("The file was saved by a newer version of this page; nothing was taken from it.");
  const messages = (value.messages ?? []).filter((entry) => isText(entry?.id, entry?.conversation, entry?.parent, entry?.content, entry?.role));
  const conversations = (value.conversations ?? []).filter((entry) => isText(entry?.id, entry?.title) && entry.settings);
  for (const entry of conversations) {
    entry.chosen = { ...entry.chosen };
    entry.created = Number(entry.created) || Date.now();
    entry.updated = Number(entry.updated) || entry.created;
  }
  for (const entry of messages) {
    entry.created = Number(entry.created) || Date.now();
    entry.number = Number(entry.number) || 0;
  }
  const lost = (value.messages?.length ?? 0) - messages.length + (value.conversations?.length ?? 0) - conversations.length;
  if (lost) throw new Error(`${lost} entries of the file can't be read; nothing was taken from it.`);
  return { conversations, messages, presets: Array.isArray(value.presets) ? value.presets : [] };
}

const isText = (...values) => values.every((value) => typeof value === "string");
