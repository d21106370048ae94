// The chat page: joins what is kept, the server and what is on screen.

import { moderate, readStatus } from "./api.js";
import { Dialog } from "./chat/dialog.js";
import { Runs } from "./chat/runs.js";
import { $, copyText, icon, saveFile } from "./lib/dom.js";
import { size } from "./lib/words.js";
import { OF_NEW } from "./storage/drafts.js";
import { Store } from "./storage/store.js";
import { asMarkdown } from "./storage/transfer.js";
import { address, addressed, whenGone } from "./view/address.js";
import { Composer } from "./view/composer.js";
import { showContext } from "./view/context.js";
import { drawExamples } from "./view/examples.js";
import { ask } from "./view/menu.js";
import { Models } from "./view/models.js";
import { announce, notify } from "./view/notices.js";
import { Picker } from "./view/picker.js";
import { Search } from "./view/search.js";
import { Settings } from "./view/settings.js";
import { setUpShortcuts } from "./view/shortcuts.js";
import { Sidebar, titleOf } from "./view/sidebar.js";
import { Drawer } from "./view/drawer.js";
import { Thread } from "./view/thread.js";

const store = await Store.open((message) => notify(message));
const runs = new Runs(store);
const models = new Models(() => picker.draw());
const picker = new Picker(store, models, () => draw());
const dialog = new Dialog(store, runs, modelOf);
const thread = new Thread(runs, actOnMessage, () => Boolean(models.guard));
const sidebar = new Sidebar(store, runs, actOnConversation);
const drawer = new Drawer();
const composer = new Composer({ send, editLast });
const search = new Search(store, { open: (conversation, message) => openFound(conversation, message), closed: () => sidebar.draw() });
const settings = new Settings(store, { changed: () => { sidebar.draw(); draw(); }, keyChanged: refresh, deleteAll });
const NOT_HERE = "The conversation of this link isn't in this browser.";
let tree = null;

/** Show a conversation; `step` is "replace" where the address doesn't become a step that the browser can go back from. */
async function open(id, { messageId = "", step = "push" } = {}) {
  if (!store.conversations.has(id)) return begin(step);
  store.currentId = id;
  tree = await store.tree(id);
  if (store.currentId !== id) return;
  if (messageId) tree.reveal(tree.messages.get(messageId));
  thread.open(tree, messageId);
  const { isNew } = store.current;
  composer.open(isNew ? OF_NEW : id);
  picker.draw();
  draw();
  sidebar.draw();
  address(store.current, step);
  store.keepValues({ current: isNew ? "" : id });
  store.endAbandoned(tree);
}

async function begin(step = "push") {
  search.clear();
  await open(store.begin().id, { step });
  drawer.close();
  composer.field.focus();
}

/** Bring everything around the messages up to date, and what changed of them. */
function draw() {
  if (!tree) return;
  thread.draw(tree);
  const busy = runs.of(store.currentId).length > 0;
  $("stop").hidden = !busy;
  $("send").hidden = busy;
  $("title").textContent = titleOf(store.current);
  document.title = store.current.title ? `${store.current.title} · llama3-mlx` : "llama3-mlx";
  const path = tree.path();
  showContext(path, models.contextOf(path.findLast(({ model }) => model)?.model), async () => open((await dialog.carryOn(tree)).id));
}

/** Return a model's name, or, said aloud, the one that answers in its place where it is gone. */
function modelOf(name) {
  const there = picker.known(name);
  if (name && there && there !== name) notify(`${name} isn't there any more: ${there} answers.`);
  return there;
}

async function send(text, files) {
  if (runs.of(store.currentId).length) return;
  if (tree.path().at(-1)?.state === "writing") return notify("This conversation is being answered in another window.");
  if (!models.list.length) {
    await refresh();
    if (!models.list.length) return notify(models.isRead ? "There is no model yet: download one under Models." : "The server doesn't answer, so the message waits here.");
  }
  if (store.current.isNew) store.keepValues({ current: store.currentId });
  dialog.send(tree, text, files);
  composer.clear(store.currentId);
  thread.toEnd();
  address(store.current, "replace");
  draw();
}

function editLast() {
  const own = [...document.querySelectorAll(".message.user [data-action=edit]")].at(-1);
  own?.click();
  return Boolean(own);
}

function actOnMessage(name, message, value) {
  const acts = {
    again: () => dialog.again(tree, message),
    continue: () => dialog.goOn(tree, message),
    edit: () => { runs.stop(store.currentId); dialog.edit(tree, message, value); composer.field.focus(); },
    judge: () => judge(message),
    results: () => dialog.giveResults(tree, message, value),
    choose: () => { tree.choose(value); store.keep(tree.conversation); },
    keep: () => { tree.choose(message); for (const other of tree.pair(message)) { delete other.pair; store.keep(tree.conversation, [other]); } composer.field.focus(); },
  };
  document.querySelector(".message.editing")?.classList.remove("editing");
  acts[name]();
  draw();
}

/** Have the guard judge a message, by itself and as the words of a user. */
async function judge(message) {
  const owner = tree;
  try {
    message.judged = await moderate(message.content);
    await store.keep(owner.conversation, [message]);
    announce(message.judged.flagged ? "The guard finds this message unsafe." : "The guard finds nothing unsafe.");
  } catch (error) {
    notify(error.message);
  }
  draw();
}

function actOnConversation(name, conversation, value) {
  const acts = {
    open: () => { open(conversation.id); drawer.close(); },
    pin: () => change({ pinned: !conversation.pinned }),
    rename: () => change({ title: value }),
    link: () => copyText(`${location.origin}/#c-${conversation.id}`).then(() => announce("The link is copied.")),
    markdown: () => saveMarkdown(conversation),
    delete: () => remove(conversation),
  };
  const change = (values) => { Object.assign(conversation, values); store.keep(conversation); sidebar.draw(); draw(); };
  return acts[name]();
}

async function remove(conversation) {
  const { list } = store, place = list.indexOf(conversation), next = list[place + 1] ?? list[place - 1];
  await runs.stop(conversation.id);
  const title = titleOf(conversation);
  const back = await store.remove([conversation.id]);
  notify(`“${title}” is deleted.`, async () => { await back(); await open(conversation.id); });
  if (conversation.id === store.currentId) await (next ? open(next.id, { step: "replace" }) : begin("replace"));
  else sidebar.draw();
  if (next && !composer.field.matches(":focus")) sidebar.focus(next.id);
}

async function deleteAll() {
  const ids = [...store.conversations.keys()];
  if (!(await ask("Delete all conversations in this browser?", "Delete all"))) return;
  await Promise.all(ids.map((id) => runs.stop(id)));
  const back = await store.remove(ids);
  $("settings").close();
  await begin("replace");
  notify("All conversations are deleted.", async () => { await back(); await open(store.list.find(({ isNew }) => !isNew)?.id); });
}

async function saveMarkdown(conversation) {
  const title = titleOf(conversation);
  saveFile(`${title.replace(/[^\p{L}\p{N} -]/gu, "").slice(0, 60)}.md`, asMarkdown(title, (await store.tree(conversation.id)).path()), "text/markdown");
}

async function openFound(conversation, message) {
  await open(conversation.id, { messageId: message?.id });
  drawer.close();
  $("scroll").focus();
}

function step(by) {
  const list = store.list, at = list.findIndex(({ id }) => id === store.currentId), next = list[at + by];
  if (next) open(next.id);
}

/** Ask the server what it has and holds. */
async function refresh() {
  try {
    await models.refresh();
    picker.draw();
    draw();
    const { memory_bytes: held } = await readStatus();
    $("memory").textContent = held ? size(held) : "";
  } catch (error) {
    $("memory").textContent = "";
    announce(error.message, true);
    if (error.status === 401) settings.open("set-key");
  }
}

runs.addEventListener("change", ({ detail: { run, what } }) => {
  const here = run.message.conversation === store.currentId;
  if (what === "text") { if (here) thread.update(run); return; }
  if (what === "stage") { if (here) thread.showStages(); return; }
  if (here) draw();
  sidebar.draw();
  if (what === "began") { if (here) announce("Answering."); return; }
  if (!here && run.message.state === "done") announce(`“${titleOf(run.tree.conversation)}” is answered.`);
  else if (here) announce({ done: "Answer complete.", stopped: "Stopped." }[run.message.state] ?? run.message.error, run.message.state === "error");
  if (run.failure?.status === 401) settings.open("set-key");
  refresh();
});

store.addEventListener("elsewhere", ({ detail: { id, kind, ids } }) => {
  if (kind === "removed") for (const gone of ids) runs.stop(gone);
  if (!store.current) {
    begin("replace");
    notify("The conversation that was open here was deleted in another window, which can undo that.");
  }
  else if (id === store.currentId) store.tree(id).then((fresh) => { tree = fresh; draw(); });
  sidebar.draw();
});

setUpShortcuts({
  escape: () => { if (drawer.isOpen) drawer.close(); else runs.stop(store.currentId); },
  begin: () => begin(), previous: () => step(-1), next: () => step(1),
  list: () => { drawer.open(); sidebar.focus(store.currentId); },
  models: () => models.open(),
  search: () => { drawer.open(); $("search").focus(); },
  settings: () => settings.open(),
  copy: () => [...document.querySelectorAll(".message.assistant [data-action=copy]")].at(-1)?.click(),
});
$("stop").addEventListener("click", () => { runs.stop(store.currentId); composer.field.focus(); });
$("new-chat").addEventListener("click", () => begin());
$("compare").append(icon("columns"));
whenGone(() => store.current, (id) => {
  const isUnknown = id && !store.conversations.has(id);
  if (isUnknown) notify(NOT_HERE);
  open(isUnknown ? store.currentId : id, { step: "replace" });
});
addEventListener("beforeunload", (event) => { if (!store.unkept.isEmpty) event.preventDefault(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && models.isRead) refresh(); });
drawExamples((text) => composer.put(text));

const linked = addressed(), last = linked || (await store.db.value("current"));
await open(store.conversations.has(last) || last === "" ? last : store.list[0]?.id, { step: "replace" });
if (linked && linked !== store.currentId) notify(NOT_HERE);
if (!store.db.isKept) notify("This browser keeps nothing for this page: save everything to a file in the settings before you close it.");
document.documentElement.dataset.ready = "yes";
requestAnimationFrame(() => performance.mark("shown"));
refresh();
