// What can be set for a conversation, and what the settings make of a request.

/** Every setting, at "the server's own". */
export const BLANK = {
  model: "", other: "", system: "", temperature: "", top_p: "", top_k: "", min_p: "", repetition_penalty: "", max_tokens: "",
  seed: "", stop: "", use_schema: false, schema: "", use_tools: false, tools: "",
};
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
/** Settings that a preset holds: all but the models. */
export const OF_PRESET = Object.keys(BLANK).filter((name) => name !== "model" && name !== "other");

/** Return the body of a request for the message after `path`; with `goOn`, for the rest of the path's last one. */
export function requestOf(settings, path, model, { goOn = false } = {}) {
  const messages = path.flatMap(asSent);
  if (settings.system.trim()) messages.unshift({ role: "system", content: settings.system });
  const body = { model: model || null, messages };
  for (const name of NUMBERS) if (settings[name] !== "") body[name] = Number(settings[name]);
  if (settings.stop) body.stop = [settings.stop];
  if (goOn) return { ...body, continue_final_message: true, add_generation_prompt: false };
  const schema = settings.use_schema && readObject(settings.schema);
  if (schema) body.response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
  const tools = settings.use_tools && readTools(settings.tools);
  if (tools?.length) body.tools = tools;
  return body;
}

/** Return a message as the server takes it; none where there is nothing of it. */
function asSent(message) {
  if (message.role === "tool") return [{ role: "tool", tool_call_id: message.callId, content: message.content }];
  if (message.calls?.length) {
    const calls = message.calls.map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } }));
    return [{ role: "assistant", content: message.content || null, tool_calls: calls }];
  }
  const content = withFiles(message);
  return content ? [{ role: message.role, content }] : [];
}

/** Return a message's text with its files before it, each in a fence that its text can't end. */
export function withFiles({ content, files = [] }) {
  const parts = files.map(({ name, text }) => {
    const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length));
    const fence = "`".repeat(longest + 1);
    return `File ${name}:\n${fence}\n${text}\n${fence}`;
  });
  return [...parts, content].filter(Boolean).join("\n\n");
}

/** Read a JSON object; null where the text is none. */
export function readObject(text) {
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

/** Read tools: OpenAI's list, or a list of functions; null where the text is none. */
export function readTools(text) {
  try {
    const list = [JSON.parse(text)].flat();
    const tools = list.map((tool) => (tool.function ? tool : { type: "function", function: tool }));
    return tools.every((tool) => typeof tool.function?.name === "string") ? tools : null;
  } catch {
    return null;
  }
}
