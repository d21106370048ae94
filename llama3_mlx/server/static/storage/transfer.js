// Everything that this browser keeps, as one file, and back.

import { fromOlderList } from "./migration.js";
import { asConversation, asMessage, asPreset } from "./reading.js";

const FORMAT = "llama3-mlx conversations", VERSION = 2;

/** Return the text of a file with all conversations, presets and defaults; the API key stays out of it. */
export async function exported(store) {
  const { defaults, presets } = store;
  const content = { ...(await store.everything()), defaults, presets };
  return JSON.stringify({ format: FORMAT, version: VERSION, saved: new Date().toISOString(), ...content }, null, 1);
}

/**
 * Read such a file, or one of an earlier version; returns what it holds, or throws an Error that says what is wrong.
 * `undated` of what comes back says that nothing is known of its dates.
 */
export function readExport(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error("The file is no JSON, so nothing was taken from it.");
  }
  if (Array.isArray(value)) return { ...fromOlderList(value), presets: [], undated: true };
  if (value?.format !== FORMAT || !Number.isFinite(value.version)) throw new Error("The file holds no conversations of this page; nothing was taken from it.");
  if (value.version > VERSION) throw new Error("The file was saved by a newer version of this page; nothing was taken from it.");
  const lists = [value.conversations, value.messages, value.presets].map((list) => (Array.isArray(list) ? list : []));
  const [conversations, messages, presets] = [asConversation, asMessage, asPreset].map((read, place) => lists[place].map(read));
  const ids = new Set(conversations.map((entry) => entry?.id));
  const lost = [...conversations, ...messages, ...presets].filter((entry) => !entry || (entry.conversation !== undefined && !ids.has(entry.conversation)));
  if (lost.length) throw new Error(`${lost.length} entries of the file can't be read; nothing was taken from it.`);
  return { conversations, messages, presets };
}

/** Return what is shown of a conversation as Markdown. */
export function asMarkdown(title, path) {
  const parts = path.map(({ role, model, content }) => `## ${role === "user" ? "You" : model ?? role}\n\n${content}\n`);
  return `# ${title}\n\n${parts.join("\n")}`;
}
