// Calls to the server that this page came from.

import { local } from "./storage/local.js";

const KEY = "llama3-mlx.key";

export class ApiError extends Error {
  constructor(status, message, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The API key, where the server wants one; kept in this browser. Earlier versions kept it as JSON. */
export const key = {
  get value() {
    const text = local.get(KEY) ?? "";
    return text.startsWith('"') ? JSON.parse(text) : text;
  },
  set value(text) {
    if (text) local.set(KEY, text);
    else local.remove(KEY);
  },
};

async function call(path, options = {}) {
  const headers = { "Content-Type": "application/json", ...(key.value ? { Authorization: `Bearer ${key.value}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server can't be reached. Is it still running?");
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  const message = typeof error === "string" ? error : error?.message;
  throw new ApiError(response.status, message ?? `The server answered ${response.status}.`, error?.code ?? "");
}

const post = (path, body, signal) => call(path, { method: "POST", body: JSON.stringify(body), signal });
const json = async (response) => (await response).json();

/** Return the models with what they need, which adapters fit and whether they are loaded. */
export const readModels = () => json(call("/status/models"));
export const readStatus = () => json(call("/status"));
export const loadModel = (model) => post("/api/generate", { model, stream: false });
export const unloadModel = (model) => post("/api/generate", { model, keep_alive: 0, stream: false });
export const deleteModel = (model) => call("/api/delete", { method: "DELETE", body: JSON.stringify({ model }) });

/** Return what the server's guard says of a text: `flagged`, `categories` and `category_scores` by their titles. */
export const moderate = async (input) => {
  const { model, results: [result] } = await json(post("/v1/moderations", { input }));
  return { model, ...result };
};

/** Yield the chunks of a streamed chat. `accepted` is called when the server has begun to answer. */
export async function* streamChat(body, signal, accepted) {
  const request = { ...body, stream: true, stream_options: { include_usage: true }, return_progress: true };
  const response = await post("/v1/chat/completions", request, signal);
  accepted();
  for await (const part of parts(response.body, "\n\n")) {
    const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
    if (!data.length) continue;
    if (data[0] === "[DONE]") return;
    const chunk = JSON.parse(data.join("\n"));
    if (chunk.error) throw new ApiError(500, chunk.error.message, chunk.error.code ?? "");
    yield chunk;
  }
  throw new ApiError(0, "The server broke off the answer.");
}

/** Yield the states of a download from the Hub. */
export async function* pullModel(model, signal) {
  const response = await post("/api/pull", { model, stream: true }, signal);
  for await (const line of parts(response.body, "\n")) {
    if (!line.trim()) continue;
    const state = JSON.parse(line);
    if (state.error) throw new ApiError(500, state.error);
    yield state;
    if (state.status === "success") return;
  }
  throw new ApiError(0, "The server broke off the download.");
}

/** Yield the parts of a stream of text that `separator` ends. */
async function* parts(stream, separator) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The connection to the server broke off.");
    });
    if (done) return;
    held += value;
    const found = held.split(separator);
    held = found.pop();
    yield* found;
  }
}
