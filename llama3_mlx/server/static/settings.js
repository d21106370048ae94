// The settings dialog, and what the settings make of a request.

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "min_p", "max_tokens", "seed"];

/** Return the body of a chat request. */
export function requestOf(settings, messages) {
  const dialog = messages.filter((message) => message.content).map(({ role, content }) => ({ role, content }));
  if (settings.system.trim()) dialog.unshift({ role: "system", content: settings.system });
  const body = { model: $("model").value || null, messages: dialog };
  for (const name of NUMBERS) if (settings[name] !== "") body[name] = Number(settings[name]);
  if (settings.stop) body.stop = [settings.stop];
  if (settings.use_schema && parsed(settings.schema)) {
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: parsed(settings.schema), strict: true } };
  }
  return body;
}

export function openSettings(focusId) {
  if (!$("settings").open) $("settings").showModal();
  if (focusId) $(focusId).focus();
}

export function setUpSettings(store, { changed, keyChanged, announce }) {
  const fields = [...document.querySelectorAll("[data-setting]")];
  const fill = () => {
    for (const field of fields) {
      const value = store.settings[field.dataset.setting];
      if (field.type === "checkbox") field.checked = value;
      else field.value = value;
    }
    $("set-theme").value = localStorage.getItem("llama3-mlx.theme") ?? "";
    $("set-key").value = store.key;
    checkSchema(store);
  };
  for (const field of fields) {
    field.addEventListener("input", () => {
      if (field.type === "number" && !field.validity.valid) return;
      store.change(field.dataset.setting, field.type === "checkbox" ? field.checked : field.value);
      checkSchema(store);
    });
  }
  $("open-settings").addEventListener("click", () => { fill(); openSettings(); });
  $("set-theme").addEventListener("change", () => setTheme($("set-theme").value));
  $("set-key").addEventListener("change", () => { store.key = $("set-key").value.trim(); keyChanged(); });
  $("export").addEventListener("click", () => saveFile(store));
  $("delete-all").addEventListener("click", () => {
    if (!confirm("Delete all conversations in this browser?")) return;
    store.removeAll();
    changed();
    announce("All conversations are deleted.");
  });
  fill();
}

function setTheme(theme) {
  if (theme) {
    localStorage.setItem("llama3-mlx.theme", theme);
    document.documentElement.dataset.theme = theme;
  } else {
    localStorage.removeItem("llama3-mlx.theme");
    delete document.documentElement.dataset.theme;
  }
}

function checkSchema(store) {
  const { use_schema: used, schema } = store.settings;
  const bad = used && !parsed(schema);
  $("schema-error").textContent = bad ? "This is no JSON object, so answers are not held to it." : "";
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

function saveFile(store) {
  const file = new Blob([JSON.stringify(store.list, null, 2)], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = "llama3-mlx-conversations.json";
  link.click();
  URL.revokeObjectURL(link.href);
}
