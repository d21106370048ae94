// The settings dialog: of this conversation, of new ones, presets, and what this browser keeps.

import { key } from "../api.js";
import { BLANK, OF_PRESET, readObject, readTools } from "../chat/settings.js";
import { $, saveFile } from "../lib/dom.js";
import { counted, size } from "../lib/words.js";
import { local } from "../storage/local.js";
import { exported, readExport } from "../storage/transfer.js";

const THEME = "llama3-mlx.theme";

export class Settings {
  /** `act` has changed(), keyChanged() and deleteAll(). */
  constructor(store, act) {
    this.store = store;
    this.act = act;
    this.fields = [...document.querySelectorAll("[data-setting]")];
    for (const field of this.fields) field.addEventListener("input", () => this.take(field));
    for (const radio of document.querySelectorAll("[name=scope]")) radio.addEventListener("change", () => this.fill());
    $("open-settings").addEventListener("click", () => this.open());
    $("reset-settings").addEventListener("click", () => this.setAll(this.isDefaults ? BLANK : this.store.defaults));
    $("make-defaults").addEventListener("click", () => this.makeDefaults());
    this.setUpPresets();
    this.setUpBrowser();
  }

  open(focusId) {
    if (!this.isDefaults && !this.store.current) $("scope-defaults").checked = true;
    this.fill();
    if (!$("settings").open) $("settings").showModal();
    if (focusId) $(focusId).focus();
  }

  get isDefaults() {
    return $("scope-defaults").checked;
  }

  get target() {
    return this.isDefaults ? this.store.defaults : this.store.current.settings;
  }

  fill() {
    for (const field of this.fields) {
      const value = this.target[field.dataset.setting] ?? "";
      if (field.type === "checkbox") field.checked = value;
      else field.value = value;
    }
    this.drawPresets();
    $("set-theme").value = local.get(THEME) ?? "";
    $("set-key").value = key.value;
    $("make-defaults").hidden = this.isDefaults;
    $("reset-settings").textContent = this.isDefaults ? "Reset to the server's own" : "Reset to the defaults";
    this.mark();
    this.showKept();
  }

  take(field) {
    if (field.type === "number" && !field.validity.valid) return;
    this.target[field.dataset.setting] = field.type === "checkbox" ? field.checked : field.value;
    this.keep();
  }

  setAll(values) {
    for (const name of OF_PRESET) this.target[name] = values[name] ?? BLANK[name];
    this.fill();
    this.keep();
  }

  makeDefaults() {
    for (const name of OF_PRESET) this.store.defaults[name] = this.store.current.settings[name];
    this.store.keepValues({ defaults: this.store.defaults });
    this.mark();
    $("transfer-note").textContent = "";
    $("scope-note").textContent = "These are the defaults of new conversations now.";
  }

  keep() {
    const { current, defaults } = this.store;
    if (this.isDefaults) {
      this.store.keepValues({ defaults });
      // A conversation that hasn't begun is a new one.
      if (current?.isNew) for (const name of OF_PRESET) current.settings[name] = defaults[name];
    } else this.store.keep(current);
    this.mark();
    this.act.changed();
  }

  /** Mark what differs from the defaults, and what can't be used as it is. */
  mark() {
    const { defaults } = this.store;
    let differing = 0;
    for (const field of this.fields) {
      const name = field.dataset.setting;
      const differs = !this.isDefaults && String(this.target[name] ?? "") !== String(defaults[name] ?? "");
      differing += differs;
      (field.type === "checkbox" ? field.closest("label") : field).classList.toggle("differs", differs);
    }
    $("scope-note").textContent = this.isDefaults
      ? "New conversations begin with these. Those that there are keep their own."
      : differing ? `${counted(differing, "setting")} marked: not as in the defaults.` : "All as in the defaults.";
    const { use_schema: useSchema, schema, use_tools: useTools, tools } = this.target;
    $("schema-error").textContent = useSchema && !readObject(schema) ? "This is no JSON object, so answers are not held to it." : "";
    $("tools-error").textContent = useTools && !readTools(tools) ? "This is no list of tools in JSON, so none are offered." : "";
  }

  setUpPresets() {
    $("preset").addEventListener("change", () => {
      const preset = this.store.presets.find(({ name }) => name === $("preset").value);
      if (preset) this.setAll(preset.settings);
      $("preset").value = preset?.name ?? "";
      $("delete-preset").disabled = !preset;
    });
    $("save-preset").addEventListener("click", () => {
      const name = $("preset-name").value.trim();
      if (!name) return $("preset-name").focus();
      const settings = Object.fromEntries(OF_PRESET.map((setting) => [setting, this.target[setting]]));
      this.store.presets = [...this.store.presets.filter((preset) => preset.name !== name), { name, settings }];
      this.store.keepValues({ presets: this.store.presets });
      $("preset-name").value = "";
      this.drawPresets();
      $("preset").value = name;
      $("delete-preset").disabled = false;
    });
    $("delete-preset").addEventListener("click", () => {
      this.store.presets = this.store.presets.filter(({ name }) => name !== $("preset").value);
      this.store.keepValues({ presets: this.store.presets });
      this.drawPresets();
      $("preset").focus();
    });
  }

  drawPresets() {
    const names = this.store.presets.map(({ name }) => name).sort();
    const none = names.length ? "choose one to use its settings" : "none kept yet";
    $("preset").replaceChildren(new Option(none, ""), ...names.map((name) => new Option(name, name)));
    $("delete-preset").disabled = true;
  }

  setUpBrowser() {
    $("set-theme").addEventListener("change", () => setTheme($("set-theme").value));
    $("set-key").addEventListener("change", () => { key.value = $("set-key").value.trim(); this.act.keyChanged(); });
    $("export").addEventListener("click", async () => saveFile("llama3-mlx-conversations.json", await exported(this.store)));
    $("import").addEventListener("click", () => $("import-file").click());
    $("import-file").addEventListener("change", () => this.import($("import-file").files[0]));
    $("delete-all").addEventListener("click", () => this.act.deleteAll());
  }

  async import(file) {
    if (!file) return;
    $("import-file").value = "";
    try {
      const content = readExport(await file.text());
      const taken = await this.store.take(content);
      const there = content.conversations.length - taken;
      const rest = there ? `; ${there} ${there === 1 ? "was" : "were"} here already and stayed` : "";
      $("transfer-note").textContent = `${counted(taken, "conversation")} taken from the file${rest}.`;
      this.fill();
      this.act.changed();
    } catch (error) {
      $("transfer-note").textContent = error.message;
    }
  }

  async showKept() {
    const kept = [...this.store.conversations.values()].filter(({ isNew }) => !isNew).length;
    const { conversations, messages } = this.store.unkept;
    if (!this.store.unkept.isEmpty) {
      $("kept").textContent = `The browser has no room for ${counted(Math.max(messages.size, conversations.size), "message")}: save everything to a file, then delete conversations.`;
      return;
    }
    const { usage, quota } = (await navigator.storage?.estimate?.()) ?? {};
    const room = quota ? `, ${size(usage)} of ${size(quota)} that the browser gives` : "";
    $("kept").textContent = this.store.db.isKept
      ? `${counted(kept, "conversation")}${room}.`
      : "This browser keeps nothing for this page: save everything to a file before you close it.";
  }
}

function setTheme(theme) {
  if (theme) {
    local.set(THEME, theme);
    document.documentElement.dataset.theme = theme;
  } else {
    local.remove(THEME);
    delete document.documentElement.dataset.theme;
  }
}
