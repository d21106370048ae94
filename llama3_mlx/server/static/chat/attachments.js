// Files that go along with a message, as text.

import { counted, size } from "../lib/words.js";

const MAX_BYTES = 4_000_000;
/** A pasted text longer than this becomes a file of the message. */
export const LONG_PASTE = 4000;

/** Read a file as {name, text}; throws an Error that says why it can't be one. */
export async function readFile(file) {
  if (file.type === "application/pdf" || /\.pdf$/i.test(file.name)) {
    throw new Error(`${file.name} is a PDF, which this page can't read: copy its text and paste it.`);
  }
  if (file.size > MAX_BYTES) throw new Error(`${file.name} has ${size(file.size)}; at most ${size(MAX_BYTES)} can go along.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error(`${file.name} is no text in UTF-8.`);
  }
  if (text.includes("\0")) throw new Error(`${file.name} is no text.`);
  return { name: file.name || "pasted text", text };
}

/** Describe a file in few words. */
export const describe = ({ text }) => counted(text.split("\n").length, "line");
