// The models dialog: what there is, what it needs; loading, unloading, downloading and deleting.

import { deleteModel, loadModel, pullModel, readModels, unloadModel } from "../api.js";
import { $, button, element } from "../lib/dom.js";
import { count, parameters, size } from "../lib/words.js";
import { ask } from "./menu.js";

const REFRESH_MS = 2000;

export class Models {
  list = [];
  isRead = false;
  guard = null;
  pulling = null;
  busy = new Map();

  /** `changed()` is called when there are other models than before. */
  constructor(changed) {
    this.changed = changed;
    $("open-models").addEventListener("click", () => this.open());
    $("pull-start").addEventListener("click", () => this.pull());
    $("pull-cancel").addEventListener("click", () => this.pulling?.abort());
    $("pull-name").addEventListener("keydown", (event) => {
      if (event.key === "Enter") { event.preventDefault(); this.pull(); }
    });
    setInterval(() => { if ($("models").open && !document.hidden) this.refresh().catch(() => {}); }, REFRESH_MS);
  }

  /** Everything that a request can name. */
  get names() {
    return this.list.flatMap(({ name, adapters }) => [name, ...adapters.map((adapter) => `${name}:${adapter}`)]);
  }

  contextOf(name) {
    const known = this.list.find((model) => model.name === name) ?? this.list.find((model) => name?.startsWith(`${model.name}:`));
    return known?.context_length ?? 0;
  }

  async refresh() {
    const before = this.names.join("\n");
    const guarded = this.guard;
    const { models, manage, budget_bytes: budget, guard } = await readModels();
    Object.assign(this, { list: models, isRead: true, manage, budget, guard });
    if (this.names.join("\n") !== before || this.guard !== guarded) this.changed();
    if ($("models").open) this.draw();
  }

  async open() {
    $("models").showModal();
    this.draw();
    try {
      await this.refresh();
    } catch (error) {
      $("models-note").textContent = error.message;
    }
  }

  draw() {
    const used = this.list.filter(({ state }) => state !== "unloaded").reduce((sum, model) => sum + model.needed_bytes, 0);
    $("models-note").textContent = this.list.length
      ? `${used ? size(used) : "Nothing"} of the ${size(this.budget)} for models is taken. A model is loaded when it is first asked, and unloaded when it is long unused.`
      : "There is no model yet.";
    if (this.guard) $("models-note").append(` ${this.guard} judges questions and answers.`);
    $("pull").hidden = !this.manage;
    const key = JSON.stringify([this.list, this.manage, [...this.busy]]);
    if (key === this.drawn) return;
    this.drawn = key;
    const focus = document.activeElement?.closest?.("#model-list li");
    const action = document.activeElement?.dataset?.action;
    $("model-list").replaceChildren(...this.list.map((model) => this.item(model)));
    if (!focus) return;
    const item = [...$("model-list").children].find((other) => other.dataset.name === focus.dataset.name);
    (item?.querySelector(`[data-action=${action}]`) ?? item?.querySelector("button") ?? $("pull-name")).focus();
  }

  item(model) {
    const item = element("li", "model");
    item.dataset.name = model.name;
    const facts = [
      parameters(model.parameters), model.quantization, size(model.size_bytes), `${count(model.context_length)} tokens of context`,
      `${size(model.needed_bytes)} when loaded`,
    ];
    item.append(element("h3", "", model.name), element("p", "faint", facts.join(" · ")));
    if (model.adapters.length) item.append(element("p", "faint", `Adapters: ${model.adapters.join(", ")}`));
    const row = element("div", "row");
    row.append(element("span", `state ${model.state}`, stateText(model)));
    const busy = this.busy.get(model.name);
    const add = (text, action, act, more) => {
      // Not `disabled`, which would lose the focus.
      const node = button(text, action, () => { if (this.busy.get(model.name) !== "waits") act(); }, { label: `${text} ${model.name}`, ...more });
      if (busy === "waits") node.setAttribute("aria-disabled", "true");
      row.append(node);
    };
    if (model.state === "unloaded") add("Load", "load", () => this.run(model, loadModel));
    if (model.state === "loaded" && !model.running) add("Unload", "unload", () => this.run(model, unloadModel));
    if (this.manage) add("Delete", "delete", () => this.remove(model));
    item.append(row);
    if (busy && busy !== "waits") item.append(element("p", "error", busy));
    return item;
  }

  async remove(model) {
    const sure = await ask(`Delete ${model.name} from the disk? Its ${size(model.size_bytes)} would have to be downloaded or made again.`, "Delete");
    if (sure) await this.run(model, deleteModel);
  }

  async run({ name }, work) {
    this.busy.set(name, "waits");
    this.draw();
    try {
      await work(name);
      this.busy.delete(name);
    } catch (error) {
      this.busy.set(name, error.message);
    }
    await this.refresh().catch(() => {});
    this.draw();
  }

  async pull() {
    const name = $("pull-name").value.trim();
    if (!name || this.pulling) return;
    this.pulling = new AbortController();
    this.showPull(true);
    $("pull-error").textContent = "";
    try {
      for await (const { total, completed, status } of pullModel(name, this.pulling.signal)) {
        if (total) $("pull-progress").value = completed / total;
        else $("pull-progress").removeAttribute("value");
        $("pull-text").textContent = total ? `${size(completed)} of ${size(total)}` : status;
      }
      $("pull-name").value = "";
    } catch (error) {
      const stopped = error.name === "AbortError";
      $("pull-error").textContent = stopped ? "The download was cancelled; whole files are kept for the next time." : error.message;
    }
    this.pulling = null;
    this.showPull(false);
    await this.refresh().catch(() => {});
  }

  showPull(on) {
    $("pull-start").hidden = on;
    $("pull-cancel").hidden = $("pull-state").hidden = !on;
    $("pull-text").textContent = "";
    (on ? $("pull-cancel") : $("pull-name")).focus();
  }
}

function stateText({ state, running, waiting, expires_in_s: left }) {
  if (state === "loading") return "loading …";
  if (state === "unloaded") return "not loaded";
  if (running) return waiting ? `${running} running, ${waiting} of them waiting` : `${running} running`;
  return left === null ? "loaded" : `loaded, goes after ${Math.ceil(left / 60)} min unused`;
}
