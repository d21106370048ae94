// What comes from a file or from an earlier version, field by field as the page keeps it; any other field is left out.

import { BLANK } from "../chat/settings.js";

// The last moment that a date can be, https://tc39.es/ecma262/#sec-time-values-and-time-range.
const LAST_MS = 8.64e15;

const isText = (value) => typeof value === "string";
const isNumber = (value) => Number.isFinite(value);
const isFlag = (value) => typeof value === "boolean";
const isList = (check) => (value) => Array.isArray(value) && value.every(check);
const isMap = (check) => (value) => isPlain(value) && Object.values(value).every(check);
const isPlain = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isOneOf = (...values) => (value) => values.includes(value);
/** An object that has all of `needed`, and of `others` only what is right. */
const hasFields = (needed, others = {}) => (value) => isPlain(value)
  && Object.entries(needed).every(([name, check]) => check(value[name]))
  && Object.entries(others).every(([name, check]) => value[name] === undefined || value[name] === null || check(value[name]));

const MESSAGE = { id: isText, conversation: isText, parent: isText, content: isText, role: isOneOf("user", "assistant", "tool") };
const MESSAGE_TOO = {
  state: isText, model: isText, pair: isText, json: isFlag, callId: isText, name: isText, error: isText, code: isText, reason: isText,
  refusal: isText, notes: isList(isText), files: isList(hasFields({ name: isText, text: isText })),
  calls: isList(hasFields({ id: isText, name: isText, arguments: isText })),
  stats: hasFields({ tokens: isNumber, prompt: isNumber, rate: isNumber, first: isNumber }, { cached: isNumber }),
  judged: hasFields({ model: isText, flagged: isFlag, categories: isMap(isFlag), category_scores: isMap(isNumber) }),
};
const isMessage = hasFields(MESSAGE, MESSAGE_TOO);
const isConversation = hasFields({ id: isText, title: isText, settings: isPlain }, { chosen: isMap(isText) });

/** Return settings with a value of the right kind for each that there is. */
export function asSettings(values) {
  const right = (name) => {
    const value = isNumber(values?.[name]) ? String(values[name]) : values?.[name];
    return typeof value === typeof BLANK[name] ? value : BLANK[name];
  };
  return Object.fromEntries(Object.keys(BLANK).map((name) => [name, right(name)]));
}

/** Return a message; null where it can't be one. */
export function asMessage(entry) {
  if (!isMessage(entry)) return null;
  const { state = "done" } = entry;
  return {
    ...only(entry, MESSAGE), ...only(entry, MESSAGE_TOO), number: isNumber(entry.number) ? entry.number : 0,
    created: moment(entry.created) ?? Date.now(), state: state === "writing" ? "broken" : state,
  };
}

/** Return a conversation; null where it can't be one. */
export function asConversation(entry) {
  if (!isConversation(entry)) return null;
  const created = moment(entry.created) ?? Date.now();
  return {
    id: entry.id, title: entry.title, created, updated: moment(entry.updated) ?? created, pinned: entry.pinned === true,
    settings: asSettings(entry.settings), chosen: { ...entry.chosen },
  };
}

/** Return a preset; null where it can't be one. */
export const asPreset = (entry) => (entry?.name && isText(entry.name) ? { name: entry.name, settings: asSettings(entry.settings) } : null);

const only = (entry, checks) => Object.fromEntries(Object.keys(checks).filter((name) => entry[name] !== undefined && entry[name] !== null).map((name) => [name, entry[name]]));
const moment = (value) => (isNumber(value) && Math.abs(value) <= LAST_MS ? value : undefined);
