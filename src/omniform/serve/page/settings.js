// The sheet of settings: those of a chat, and those of the browser.

import { key } from "./api.js";
import { find } from "./dom.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

export class Settings {
  /** `changed` gets the settings of the chat, `rekeyed` is called when there is another key. */
  constructor(changed, rekeyed) {
    Object.assign(this, { changed, values: {} });
    this.sheet = find("#settings");
    find("#open-settings").addEventListener("click", () => this.open());
    this.sheet.addEventListener("click", (event) => { if (event.target === this.sheet) this.sheet.close(); });
    find("#s-system").addEventListener("input", (event) => this.set("system", event.target.value || undefined));
    for (const name of NUMBERS) {
      const field = find(`#s-${name}`);
      field.addEventListener("input", () => { if (field.validity.valid) this.set(name, field.value === "" ? undefined : Number(field.value)); this.told(name); });
    }
    find("#s-tools").addEventListener("input", (event) => this.tools(event.target.value));
    find("#reset").addEventListener("click", () => { this.values = this.values.system ? { system: this.values.system } : {}; this.fill(); this.changed(this.values); });
    const secret = find("#s-key");
    secret.addEventListener("change", () => { key.set(secret.value.trim()); rekeyed(); });
  }

  set(name, value) {
    this.values = { ...this.values, [name]: value };
    if (value === undefined) delete this.values[name];
    this.changed(this.values);
  }

  tools(text) {
    const wrong = find("#e-tools");
    wrong.textContent = "";
    if (!text.trim()) { this.set("tools", undefined); return; }
    try {
      const found = JSON.parse(text);
      if (!Array.isArray(found)) throw new Error("a list is wanted: [ … ]");
      this.set("tools", found);
    } catch (error) {
      wrong.textContent = `Not used yet: ${error.message}`;
    }
  }

  /** Show the settings of a chat. */
  use(values) {
    this.values = values || {};
    this.fill();
  }

  fill() {
    find("#s-system").value = this.values.system || "";
    find("#s-tools").value = this.values.tools ? JSON.stringify(this.values.tools, null, 2) : "";
    find("#e-tools").textContent = "";
    for (const name of NUMBERS) {
      find(`#s-${name}`).value = this.values[name] ?? { temperature: 1, top_p: 1 }[name] ?? "";
      this.told(name);
    }
    find("#s-key").value = key.get();
  }

  told(name) {
    const shown = find(`#o-${name}`);
    if (shown) shown.textContent = this.values[name] === undefined ? "the model's own" : this.values[name].toFixed(2);
  }

  open(field) {
    this.fill();
    if (!this.sheet.open) this.sheet.showModal();
    if (field) find(`#${field}`).focus();
  }
}
