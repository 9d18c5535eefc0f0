// What the engine does now, asked for now and then while somebody looks.

import { engine } from "./api.js";
import { bytes, find, h } from "./dom.js";

const PAST = 60; // rates that the line shows
const SVG = "http://www.w3.org/2000/svg";

export class EngineView {
  constructor(root) {
    Object.assign(this, { root, busy: () => false, before: new Map(), rates: [], told: null, timer: 0 });
    this.line = find("#engine-line");
    this.body = find("#engine-body");
    root.addEventListener("toggle", () => this.look());
    document.addEventListener("visibilitychange", () => this.look());
    this.look();
  }

  /** Look now, and again: often while something runs or the view is open, seldom else, and not where nobody sees it. */
  async look() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    try {
      this.told = await engine();
      this.count();
      this.draw();
      this.onlook?.(this.told);
    } catch (error) {
      this.line.textContent = error.status === 401 ? "Engine: a key is needed" : "The server does not answer";
      this.root.dataset.state = "gone";
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), this.root.open || this.busy() ? 1000 : 6000);
  }

  count() {
    let rate = 0;
    for (const one of this.told.models) {
      if (!one.engine) continue;
      const then = this.before.get(one.name), now = { at: this.told.now, tokens: one.engine.tokens_computed };
      if (then && now.at > then.at && now.tokens >= then.tokens) rate += (now.tokens - then.tokens) / (now.at - then.at);
      this.before.set(one.name, now);
    }
    this.rates = [...this.rates, rate].slice(-PAST);
  }

  draw() {
    const { gate, models } = this.told, rate = Math.round(this.rates.at(-1));
    const rows = models.reduce((sum, one) => sum + (one.engine?.running || 0), 0);
    this.root.dataset.state = rows || gate.running ? "busy" : "calm";
    this.line.textContent = rows ? `${rows} running · ${rate} tokens/s` : models.some((one) => one.loaded) ? "Engine idle" : "No model loaded";
    if (!this.root.open) return;
    this.body.replaceChildren(
      facts([["Requests running", gate.running], ["Requests waiting", gate.waiting], ["Tokens per second", rate]]),
      line(this.rates), ...models.map(shown));
  }
}

function facts(pairs) {
  return h("dl", {}, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
}

function line(rates) {
  const node = document.createElementNS(SVG, "svg"), most = Math.max(1, ...rates);
  node.setAttribute("viewBox", `0 0 ${PAST} 20`);
  node.setAttribute("preserveAspectRatio", "none");
  node.setAttribute("class", "spark");
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", `Tokens per second of late; ${Math.round(most)} at most`);
  const path = document.createElementNS(SVG, "polyline"), from = PAST - rates.length;
  path.setAttribute("points", rates.map((rate, i) => `${from + i},${(19 - (18 * rate) / most).toFixed(1)}`).join(" "));
  node.append(path);
  return node;
}

function shown(one) {
  const title = h("h3", {}, one.name);
  if (!one.loaded) return h("section", {}, title, h("p", {}, "not loaded; it is when somebody asks"));
  if (!one.engine) return h("section", {}, title, h("p", {}, "loaded; it does not write"));
  const { blocks, ...rest } = one.engine, share = (count) => (blocks.total ? (100 * count) / blocks.total : 0);
  const used = h("i", { class: "used" }), cached = h("i", { class: "cached" });
  used.style.width = `${share(blocks.used)}%`;
  cached.style.width = `${share(blocks.cached)}%`;
  return h("section", {}, title,
    h("div", { class: "meter", role: "img", "aria-label": `Of ${blocks.total} blocks ${blocks.used} are used, and ${blocks.cached} remembered` }, used, cached),
    facts([
      ["Rows running", rest.running], ["Rows waiting", rest.waiting],
      ["Blocks used", `${blocks.used} of ${blocks.total}`], ["Blocks remembered", blocks.cached],
      ["Tokens computed", rest.tokens_computed], ["Tokens from memory", rest.tokens_cached],
      ["Media read", `${rest.encoder_runs}, known ${rest.encoder_hits}`],
      ["State", `${bytes(rest.memory.taken)}, ${rest.cache_dtype}`], ["Weights", bytes(one.weights_bytes)],
    ]));
}
