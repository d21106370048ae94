// The chat page: joins what is kept, the server and what is on screen.

import { moderate, readStatus } from "./api.js";
import { Dialog } from "./chat/dialog.js";
import { Runs } from "./chat/runs.js";
import { $, copyText, icon, saveFile } from "./lib/dom.js";
import { size } from "./lib/words.js";
import { Store } from "./storage/store.js";
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
const dialog = new Dialog(store, runs, (name) => picker.known(name));
const thread = new Thread(runs, actOnMessage, () => Boolean(models.guard));
const sidebar = new Sidebar(store, runs, actOnConversation);
const drawer = new Drawer();
const composer = new Composer({ send, editLast });
const search = new Search(store, { open: (conversation, message) => openFound(conversation, message), closed: () => sidebar.draw() });
const settings = new Settings(store, { changed: () => { sidebar.draw(); draw(); }, keyChanged: refresh, deleteAll });
let tree = null;

/** Show a conversation. */
async function open(id, messageId = "") {
  if (!store.conversations.has(id)) return begin();
  store.currentId = id;
  tree = await store.tree(id);
  if (store.currentId !== id) return;
  if (messageId) tree.reveal(tree.messages.get(messageId));
  thread.open(tree, messageId);
  composer.open(id);
  picker.draw();
  draw();
  sidebar.draw();
  history.replaceState(null, "", store.current.isNew ? location.pathname : `#c-${id}`);
  store.keepValues({ current: id });
}

async function begin() {
  search.clear();
  await open(store.begin().id);
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

function send(text, files) {
  if (runs.of(store.currentId).length) return;
  if (!models.list.length) return notify("There is no model yet: download one under Models.");
  dialog.send(tree, text, files);
  composer.clear();
  thread.toEnd();
  history.replaceState(null, "", `#c-${store.currentId}`);
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
  runs.stop(conversation.id);
  const title = titleOf(conversation);
  const back = await store.remove([conversation.id]);
  notify(`“${title}” is deleted.`, async () => { await back(); await open(conversation.id); });
  if (conversation.id === store.currentId) await (next ? open(next.id) : begin());
  else sidebar.draw();
  if (next && !composer.field.matches(":focus")) sidebar.focus(next.id);
}

async function deleteAll() {
  const ids = [...store.conversations.keys()];
  if (!(await ask("Delete all conversations in this browser?", "Delete all"))) return;
  for (const id of ids) runs.stop(id);
  const back = await store.remove(ids);
  $("settings").close();
  await begin();
  notify("All conversations are deleted.", async () => { await back(); await open(ids[0]); });
}

async function saveMarkdown(conversation) {
  const path = (await store.tree(conversation.id)).path();
  const parts = path.map(({ role, model, content }) => `## ${role === "user" ? "You" : model ?? role}\n\n${content}\n`);
  saveFile(`${titleOf(conversation).replace(/[^\p{L}\p{N} -]/gu, "").slice(0, 60)}.md`, `# ${titleOf(conversation)}\n\n${parts.join("\n")}`, "text/markdown");
}

async function openFound(conversation, message) {
  await open(conversation.id, message?.id);
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

store.addEventListener("elsewhere", ({ detail: { id } }) => {
  if (!store.current) begin();
  else if (id === store.currentId) store.tree(id).then((fresh) => { tree = fresh; draw(); });
  sidebar.draw();
});

setUpShortcuts({
  escape: () => { if (runs.of(store.currentId).length) runs.stop(store.currentId); else drawer.close(); },
  begin, previous: () => step(-1), next: () => step(1),
  list: () => { drawer.open(); sidebar.focus(store.currentId); },
  models: () => models.open(),
  search: () => { drawer.open(); $("search").focus(); },
  settings: () => settings.open(),
  copy: () => [...document.querySelectorAll(".message.assistant [data-action=copy]")].at(-1)?.click(),
});
$("stop").addEventListener("click", () => { runs.stop(store.currentId); composer.field.focus(); });
$("new-chat").addEventListener("click", begin);
$("compare").append(icon("columns"));
addEventListener("hashchange", () => { const id = location.hash.replace("#c-", ""); if (id !== store.currentId && store.conversations.has(id)) open(id); });
drawExamples((text) => composer.put(text));

const linked = location.hash.startsWith("#c-") ? location.hash.slice(3) : "";
const wanted = linked || (await store.db.value("current"));
await open(store.conversations.has(wanted) ? wanted : store.list[0]?.id);
if (linked && linked !== store.currentId) notify("The conversation of this link isn't in this browser.");
if (!store.db.isKept) notify("This browser keeps nothing for this page: save everything to a file in the settings before you close it.");
document.documentElement.dataset.ready = "yes";
requestAnimationFrame(() => performance.mark("shown"));
refresh();
