// The chat page: joins the store, the server and what is on screen.

import { listModels, readStatus, streamChat } from "./api.js";
import { element } from "./markdown.js";
import { drawMessage, showText } from "./messages.js";
import { openSettings, requestOf, setUpSettings } from "./settings.js";
import { Store } from "./store.js";

const $ = (id) => document.getElementById(id);
const store = new Store();
let running = null;

function draw() {
  const messages = store.current.messages;
  $("messages").replaceChildren(...messages.map((message, index) => drawMessage(message, actions(message, index))));
  $("empty").hidden = messages.length > 0;
  drawConversations();
  scrollDown(true);
}

function drawConversations() {
  $("conversations").replaceChildren(...store.list.map((conversation) => {
    const item = element("li", conversation === store.current ? "current" : "");
    const title = element("button", "title", conversation.title || "New conversation");
    if (conversation === store.current) title.setAttribute("aria-current", "true");
    title.addEventListener("click", () => { stop(); store.select(conversation.id); closeSidebar(); draw(); pickModel(); });
    const remove = element("button", "remove", "×");
    remove.setAttribute("aria-label", `Delete “${conversation.title || "New conversation"}”`);
    remove.addEventListener("click", () => { if (conversation === store.current) stop(); store.remove(conversation.id); draw(); });
    item.append(title, remove);
    return item;
  }));
}

/** What can be done with a message: edit one's own, write an answer anew. */
function actions(message, index) {
  const last = index === store.current.messages.length - 1 && !running;
  return {
    edit: message.role === "user" ? (text) => { cutTo(index); send(text); } : null,
    again: message.role === "assistant" && last ? () => { cutTo(index); answer(); } : null,
  };
}

function cutTo(index) {
  stop();
  store.current.messages.length = index;
}

function send(text) {
  const conversation = store.current;
  conversation.messages.push({ role: "user", content: text });
  conversation.title ||= text.trim().replace(/\s+/g, " ").slice(0, 60);
  answer();
}

/** Ask for the next message of the current conversation and show it as it comes. */
async function answer() {
  const conversation = store.current;
  const body = requestOf(store.settings, conversation.messages);
  const message = { role: "assistant", content: "" };
  conversation.messages.push(message);
  draw();
  const run = (running = { stopper: new AbortController(), began: performance.now(), first: 0 });
  setRunning(true);
  let drawing = 0;
  const show = () => {
    drawing = 0;
    // Its node is looked up each time: whatever draws the conversation anew makes another one.
    if (store.current !== conversation || conversation.messages.at(-1) !== message) return;
    showText($("messages").lastElementChild, message, Boolean(body.response_format));
    scrollDown();
  };
  try {
    for await (const chunk of streamChat(body, store.key, run.stopper.signal)) {
      const text = chunk.choices[0]?.delta?.content;
      if (text) {
        run.first ||= performance.now();
        message.content += text;
        drawing ||= requestAnimationFrame(show);
      }
      if (chunk.choices[0]?.finish_reason === "length") message.cut = true;
      if (chunk.usage) message.stats = statsOf(run, chunk.usage);
    }
    announce("Answer complete.");
  } catch (error) {
    if (error.name !== "AbortError") {
      message.error = error.message;
      announce(error.message, true);
      if (error.status === 401) openSettings("set-key");
    } else {
      message.stopped = true;
      announce("Stopped.");
    }
  } finally {
    cancelAnimationFrame(drawing);
    if (running === run) { running = null; setRunning(false); }
    const place = conversation.messages.indexOf(message);
    if (place >= 0 && !message.content && message.stopped) conversation.messages.splice(place, 1);
    if (!store.save()) announce("The browser has no room for all conversations; the oldest were left out.", true);
    if (store.current === conversation) draw();
    showMemory();
  }
}

function statsOf(run, usage) {
  run.first ||= performance.now();
  const seconds = (performance.now() - run.first) / 1000;
  const rate = usage.completion_tokens > 1 && seconds > 0 ? (usage.completion_tokens - 1) / seconds : 0;
  return {
    tokens: usage.completion_tokens, prompt: usage.prompt_tokens, rate,
    first: (run.first - run.began) / 1000, cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
  };
}

function stop() {
  running?.stopper.abort();
}

function setRunning(on) {
  $("stop").hidden = !on;
  $("send").hidden = on;
  $("messages").setAttribute("aria-busy", String(on));
  if (on) announce("Answering.");
}

function announce(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

function scrollDown(always = false) {
  const box = $("scroll");
  if (always || box.scrollHeight - box.scrollTop - box.clientHeight < 120) box.scrollTop = box.scrollHeight;
}

async function showMemory() {
  try {
    const status = await readStatus(store.key);
    $("memory").textContent = status.memory_bytes ? `${(status.memory_bytes / 1e9).toFixed(2)} GB` : "";
  } catch {
    $("memory").textContent = "";
  }
}

async function showModels() {
  try {
    const names = await listModels(store.key);
    $("model").replaceChildren(...names.map((name) => new Option(name, name)));
    pickModel();
  } catch (error) {
    announce(error.message, true);
    if (error.status === 401) openSettings("set-key");
  }
}

function pickModel() {
  const names = [...$("model").options].map((option) => option.value);
  $("model").value = names.includes(store.settings.model) ? store.settings.model : names[0] ?? "";
}

function openSidebar() {
  $("sidebar").classList.add("open");
  $("shade").hidden = false;
  $("open-sidebar").setAttribute("aria-expanded", "true");
  $("new-chat").focus();
}

function closeSidebar() {
  if (!$("sidebar").classList.contains("open")) return;
  $("sidebar").classList.remove("open");
  $("shade").hidden = true;
  $("open-sidebar").setAttribute("aria-expanded", "false");
  $("open-sidebar").focus();
}

function beginConversation() {
  stop();
  store.begin();
  closeSidebar();
  draw();
  pickModel();
  $("composer-text").focus();
}

function fitComposer() {
  const field = $("composer-text");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("composer-text").value;
  if (!text.trim() || running) return;
  $("composer-text").value = "";
  fitComposer();
  send(text);
});
$("composer-text").addEventListener("input", fitComposer);
$("composer-text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
  if (event.key === "ArrowUp" && !event.target.value) {
    const own = [...document.querySelectorAll(".message.user .edit")].at(-1);
    if (own) { event.preventDefault(); own.click(); }
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("settings").open) { if (running) stop(); else closeSidebar(); }
  if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    beginConversation();
  }
});
$("stop").addEventListener("click", stop);
$("new-chat").addEventListener("click", beginConversation);
$("model").addEventListener("change", () => store.change("model", $("model").value));
$("open-sidebar").addEventListener("click", openSidebar);
$("shade").addEventListener("click", closeSidebar);
setUpSettings(store, { changed: draw, keyChanged: () => { showModels(); showMemory(); }, announce });

window.addEventListener("storage", (event) => { if (store.adopt(event.key) && !running) draw(); else drawConversations(); });

draw();
showModels();
showMemory();
