// Files that go along with a message, as text.

import { pdfText } from "./pdf.js";
import { counted, size } from "../lib/words.js";

const MAX_BYTES = 4_000_000, MAX_PDF_BYTES = 50_000_000;
/** A pasted text longer than this becomes a file of the message. */
export const LONG_PASTE = 4000;

/** Read a file as {name, text}; throws an Error that says why it can't be one. */
export async function readFile(file) {
  const isPdf = file.type === "application/pdf" || /\.pdf$/i.test(file.name), most = isPdf ? MAX_PDF_BYTES : MAX_BYTES;
  if (file.size > most) throw new Error(`${file.name} has ${size(file.size)}; at most ${size(most)} can go along.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (isPdf) return { name: file.name, text: await pdfText(file.name, bytes) };
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
