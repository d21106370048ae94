// What a Llama Guard said of a question or an answer.

import { element } from "../lib/dom.js";

/** Return the verdict that came with an answer, as far as the server told it. */
export function verdict({ guard, reason }) {
  const blocked = reason === "content_filter";
  const box = element("div", blocked || isFlagged(guard) ? "guard flagged" : "guard");
  const said = blocked ? "The guard ended this answer." : isFlagged(guard) ? "The guard flagged this." : "The guard found nothing unsafe.";
  box.append(element("strong", "", said));
  const named = categories(guard);
  if (named.length) box.append(element("span", "", ` ${named.join(", ")}`));
  return box;
}

const results = (guard) => (Array.isArray(guard?.results) ? guard.results : guard ? [guard] : []);

const isFlagged = (guard) => results(guard).some((result) => result.flagged);

/** Return the titles of the categories: a list of them, or, as /v1/moderations gives them, an object of yes and no. */
function categories(guard) {
  return results(guard).flatMap(({ categories: found }) => {
    if (Array.isArray(found)) return found.map((entry) => (typeof entry === "string" ? entry : entry.title ?? entry.code));
    return Object.entries(found ?? {}).filter(([, yes]) => yes).map(([title]) => title);
  });
}
