// What the server's guard says: why it ended an answer, and what it finds in a message when it is asked.

import { element } from "../lib/dom.js";

const SHOWN = 3;

/** Return why the guard let no answer through, or no more of it. */
export function verdict({ content, refusal }) {
  const box = element("div", "guard");
  box.append(element("strong", "", content ? "The server's guard ended this answer." : "The server's guard let no answer through."));
  if (refusal) box.append(` ${refusal}`);
  return box;
}

/** Return the result of /v1/moderations for one message: the categories that it violates, and the highest scores. */
export function judgement({ model, flagged, categories, category_scores: scores }) {
  const box = element("div", flagged ? "guard" : "guard safe");
  const named = Object.keys(categories).filter((title) => categories[title]);
  const highest = Object.entries(scores).sort(([, one], [, other]) => other - one).slice(0, SHOWN);
  const found = flagged ? `unsafe${named.length ? `: ${named.join(", ")}` : ""}` : "nothing unsafe";
  box.append(element("strong", "", `${model} finds ${found}.`));
  box.append(` Highest scores: ${highest.map(([title, score]) => `${title} ${score.toFixed(2)}`).join(", ")}.`);
  return box;
}
