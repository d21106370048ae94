// Which model answers, and which second one beside it.

import { $ } from "../lib/dom.js";

export class Picker {
  constructor(store, models, changed) {
    this.store = store;
    this.models = models;
    this.changed = changed;
    $("model").addEventListener("change", () => this.set("model", $("model").value));
    $("other").addEventListener("change", () => this.set("other", $("other").value));
    $("compare").addEventListener("click", () => this.compare());
  }

  /** Return a model's name, or the first one's where there is none of that name. */
  known(name) {
    const { names } = this.models;
    return names.includes(name) ? name : names[0] ?? "";
  }

  set(setting, value) {
    const { current, defaults } = this.store;
    current.settings[setting] = value;
    if (setting === "model") {
      // The model that was used last is the one of the next conversation.
      defaults.model = value;
      this.store.keepValues({ defaults });
    }
    this.store.keep(current);
    this.draw();
    this.changed();
  }

  /** Switch the second model on, another than the first if there is one, or off. */
  compare() {
    const { settings } = this.store.current, { names } = this.models;
    const other = names.find((name) => name !== this.known(settings.model)) ?? "";
    this.set("other", settings.other ? "" : other);
    if (settings.other) $("other").focus();
  }

  draw() {
    if (!this.store.current) return;
    const { names } = this.models, { settings } = this.store.current;
    for (const [id, value] of [["model", settings.model], ["other", settings.other]]) {
      const select = $(id);
      if ([...select.options].map((option) => option.value).join("\n") !== names.join("\n")) {
        select.replaceChildren(...names.map((name) => new Option(name, name)));
      }
      select.value = this.known(value);
    }
    const isGone = settings.model && names.length && !names.includes(settings.model);
    $("model").title = isGone ? `${settings.model} isn't there any more` : "Model, and adapter over it";
    $("other").hidden = !settings.other;
    $("compare").setAttribute("aria-pressed", String(Boolean(settings.other)));
    $("compare").disabled = names.length < 2;
  }
}
