// Tool calls of an answer: what the model wants called, and fields for the results.

import { button, element, icon } from "../lib/dom.js";
import { codeBlock } from "../rich/code.js";

/** Return the calls of a message; where nothing follows yet, with fields for their results. */
export function callList(message, view) {
  const box = element("div", "calls");
  const waits = view.isLast && !view.run && !view.busy;
  const fields = message.calls.map((call) => {
    const card = element("section", "call");
    card.setAttribute("aria-label", `Call of ${call.name}`);
    const head = element("div", "call-head");
    head.append(icon("tool"), element("span", "", "Call of "), element("code", "", call.name));
    card.append(head, codeBlock(pretty(call.arguments), "json"));
    box.append(card);
    if (!waits) return null;
    const field = element("textarea");
    field.rows = 2;
    field.placeholder = "What the tool gave back";
    field.setAttribute("aria-label", `Result of ${call.name}`);
    card.append(field);
    return field;
  });
  if (waits) {
    const give = () => view.act("results", message, fields.map((field) => field.value));
    box.append(button("Give results to the model", "give-results", give, { quiet: false }));
  }
  return box;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
