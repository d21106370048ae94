// What an empty page offers.

import { $, button } from "../lib/dom.js";

const EXAMPLES = [
  ["Explain", "Explain how a bicycle stays upright, in three short paragraphs."],
  ["Write code", "Write a Python function that reads a CSV file and returns the mean of each numeric column."],
  ["Compare", "Make a table that compares three ways to store passwords, with a column for their risks."],
  ["Improve a text", "Improve this text, and say what you changed:\n\n"],
];

/** Draw the examples; `put(text)` gets the one that was chosen. */
export function drawExamples(put) {
  $("examples").replaceChildren(...EXAMPLES.map(([title, text]) => button(title, "example", () => put(text), { title: text.trim() })));
}
