// Numbers, sizes and dates as people read them.

const number = new Intl.NumberFormat("en");
const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });
const month = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "long" });
const DAY_MS = 86_400_000;

export const count = (value) => number.format(value);

/** Return "1 token", "2,000 tokens". */
export const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** Return bytes in GB or MB, as the server's messages do: powers of ten. */
export function size(bytes) {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(0)} MB`;
  return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
}

/** Return "1.2B" of a number of parameters. */
export function parameters(value) {
  return value >= 1e9 ? `${(value / 1e9).toFixed(1)}B` : `${Math.round(value / 1e6)}M`;
}

const startOfDay = (ms) => new Date(ms).setHours(0, 0, 0, 0);

/** Return the name of the group of dates that a moment belongs to. */
export function dateGroup(ms, now = Date.now()) {
  const days = Math.round((startOfDay(now) - startOfDay(ms)) / DAY_MS);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  if (days < 7) return "Last 7 days";
  return month.format(ms);
}

/** Make a <time> node that shows a moment. */
export function timeNode(ms) {
  const node = document.createElement("time");
  node.dateTime = new Date(ms).toISOString();
  const today = startOfDay(ms) === startOfDay(Date.now());
  node.textContent = today ? time.format(ms) : `${day.format(ms)}, ${time.format(ms)}`;
  return node;
}

/** Return an id that no other thing has; also where the page isn't in a secure context. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
