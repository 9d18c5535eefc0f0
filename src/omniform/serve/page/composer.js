// The field at the foot: words, pictures and sounds that are about to be sent.

import { find, h, iconButton } from "./dom.js";
import { itemOf, record } from "./media.js";
import { medium } from "./thread.js";

export class Composer {
  /** `send` gets a text and items, `say` tells the person something. */
  constructor(send, say) {
    Object.assign(this, { send, say, items: [], recorder: null, clock: 0 });
    this.area = find("#ask");
    this.list = find("#items");
    this.area.addEventListener("input", () => this.fit());
    this.area.addEventListener("keydown", (event) => this.key(event));
    find("#form").addEventListener("submit", (event) => { event.preventDefault(); this.submit(); });
    find("#attach").addEventListener("click", () => find("#files").click());
    find("#files").addEventListener("change", async (event) => {
      const files = [...event.target.files];
      event.target.value = "";
      await this.add(files);
    });
    find("#record").addEventListener("click", () => (this.recorder ? this.recorded() : this.record()));
    this.dropping();
    document.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files || [])];
      if (!files.length || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      this.add(files);
    });
  }

  get empty() { return !this.area.value.trim() && !this.items.length; }

  key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.ctrlKey || event.altKey) return;
    event.preventDefault();
    this.submit();
  }

  submit() {
    if (this.recorder) { this.recorded().then(() => this.submit()); return; }
    if (this.pending) { this.pending.then(() => this.submit()); return; }
    const text = this.area.value.trim(), items = this.items;
    if (!this.send(text, items)) return;
    this.area.value = "";
    this.items = [];
    this.draw();
    this.fit();
  }

  /** Make files into items, one after another. */
  add(files) {
    const work = async () => {
      for (const file of files) {
        try { this.items = [...this.items, await itemOf(file)]; } catch (error) { this.say(error.message); }
        this.draw();
      }
      this.area.focus();
    };
    const whole = (this.pending || Promise.resolve()).then(work).finally(() => { if (this.pending === whole) this.pending = null; });
    this.pending = whole;
    return whole;
  }

  draw() {
    this.list.hidden = !this.items.length;
    this.list.replaceChildren(...this.items.map((item, at) => h("li", { class: item.kind },
      medium(item, "Attached"),
      iconButton("cross", `Take out ${item.name}`, () => { this.items = this.items.filter((one) => one !== item); this.draw(); this.area.focus(); }))));
    this.onchange?.();
  }

  fit() {
    this.area.style.height = "auto";
    this.area.style.height = `${Math.min(this.area.scrollHeight, innerHeight * 0.4)}px`;
    this.onchange?.();
  }

  dropping() {
    const veil = find("#drop");
    let depth = 0;
    const files = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
    addEventListener("dragenter", (event) => { if (files(event)) { depth += 1; veil.hidden = false; } });
    addEventListener("dragleave", (event) => { if (files(event)) { depth = Math.max(0, depth - 1); veil.hidden = depth === 0; } });
    addEventListener("dragover", (event) => { if (files(event)) event.preventDefault(); });
    addEventListener("drop", (event) => {
      depth = 0;
      veil.hidden = true;
      if (!files(event)) return;
      event.preventDefault();
      this.add([...event.dataTransfer.files]);
    });
  }

  async record() {
    try { this.recorder = await record(); } catch (error) { this.say(error.message); return; }
    const began = Date.now();
    const tick = () => {
      const spent = Math.floor((Date.now() - began) / 1000);
      find("#recorded").textContent = `${Math.floor(spent / 60)}:${String(spent % 60).padStart(2, "0")}`;
    };
    tick();
    this.clock = setInterval(tick, 500);
    this.recording(true);
  }

  async recorded() {
    const recorder = this.ended();
    try { this.items = [...this.items, await recorder.stop()]; } catch (error) { this.say(error.message); }
    this.draw();
    this.area.focus();
  }

  /** Forget a recording that runs; whether one did. */
  drop() {
    if (!this.recorder) return false;
    this.ended().drop();
    return true;
  }

  ended() {
    const { recorder } = this;
    this.recorder = null;
    clearInterval(this.clock);
    this.recording(false);
    return recorder;
  }

  recording(on) {
    find("#recording").hidden = !on;
    const press = find("#record"), label = on ? "End the recording" : "Record a sound";
    press.setAttribute("aria-pressed", String(on));
    press.setAttribute("aria-label", label);
    press.title = label;
    this.onchange?.();
  }
}
