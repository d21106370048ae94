// Conversations as earlier versions of this page kept them, in localStorage, and as they saved them to a file.

import { newId } from "../lib/words.js";
import { local } from "./local.js";
import { asMessage, asSettings } from "./reading.js";

const PREFIX = "llama3-mlx.";

function read(name) {
  try {
    return JSON.parse(local.get(PREFIX + name));
  } catch {
    return null;
  }
}

/** Return what localStorage holds in the earlier form, as `Database.change` takes it; null if it holds nothing. */
export function olderContent() {
  const list = read("conversations"), settings = read("settings");
  if (!Array.isArray(list) && !settings) return null;
  return { ...fromOlderList(list ?? []), values: settings ? { defaults: asSettings(settings) } : {} };
}

/** Forget the earlier form; only for when all of it is kept in the new one. */
export function dropOlderContent() {
  for (const name of ["conversations", "settings", "current"]) local.remove(PREFIX + name);
}

/** Bring a list of conversations of the earlier form, each a row of messages, into the new one. */
export function fromOlderList(list) {
  const conversations = [], messages = [];
  const whole = list.filter((entry) => Array.isArray(entry?.messages) && entry.messages.some(Boolean));
  // The list began with the newest; that is all that is known of its dates.
  whole.forEach((entry, place) => {
    const moment = Date.now() - place * 1000;
    const conversation = {
      id: String(entry.id ?? newId()), title: String(entry.title ?? ""), created: moment, updated: moment, pinned: false,
      settings: asSettings(entry.settings), chosen: {},
    };
    let parent = "";
    entry.messages.filter(Boolean).forEach((message, number) => {
      const { role, content, json, error, stats, stopped, cut } = message, id = newId();
      const values = {
        id, conversation: conversation.id, parent, number, created: moment, role: role === "user" ? "user" : "assistant",
        content: String(content ?? ""), json: Boolean(json), state: error ? "error" : stopped ? "stopped" : "done",
        reason: cut ? "length" : undefined, error: error ? String(error) : undefined,
      };
      messages.push(asMessage({ ...values, stats }) ?? values);
      parent = id;
    });
    conversations.push(conversation);
  });
  return { conversations, messages };
}
