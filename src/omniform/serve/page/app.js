// The page: chats, the one that is open, and the answers that are being written.

import * as api from "./api.js";
import { write } from "./asking.js";
import { Composer } from "./composer.js";
import { button, download, find, h, icon, iconButton } from "./dom.js";
import { EngineView } from "./engine.js";
import { Settings } from "./settings.js";
import * as store from "./store.js";
import { kept } from "./store.js";
import { Thread } from "./thread.js";

const SAVED = 1000; // milliseconds between two savings of an answer that grows
const runs = new Map(); // of the chats that are answered: what stops them
let chats = [], chat = null, models = [], warned = false;

// ---- chats

function fresh() {
  const now = Date.now();
  return { id: store.ident(), title: "", made: now, changed: now, model: kept.get("model", null), settings: kept.get("settings", {}), messages: [] };
}

async function save(one, touch = true) {
  if (touch) one.changed = Date.now();
  if (!chats.includes(one)) return;
  if (!(await store.put(one)) && !warned) {
    warned = true;
    say("This browser keeps nothing more: export what matters, or delete chats.");
  }
}

function titled(one) {
  if (one.title) return one.title;
  const first = one.messages.find((message) => message.role === "user");
  if (!first) return "New chat";
  return first.text.replace(/\s+/g, " ").slice(0, 80) || { image: "A picture", audio: "A sound", video: "A video" }[first.items?.[0]?.kind] || "New chat";
}

function open(one) {
  chat = one;
  kept.set("chat", one.id);
  if (models.length && !models.includes(one.model)) one.model = models[0];
  settings.use(one.settings);
  thread.follow = true;
  thread.open(one);
  draw();
  offer();
}

function start() {
  open(chat && !chat.messages.length ? chat : fresh());
  shut();
  composer.area.focus();
}

function draw() {
  const title = titled(chat);
  find("#title").textContent = title;
  document.title = chat.messages.length ? `${title} – omniform` : "omniform";
  find("#model").value = chat.model || "";
  const running = runs.has(chat.id), press = find("#send");
  const label = running ? "Stop" : "Send";
  if (press.getAttribute("aria-label") !== label) {
    press.setAttribute("aria-label", label);
    press.title = label;
    press.classList.toggle("stops", running);
    press.replaceChildren(icon(running ? "stop" : "send"));
  }
  press.disabled = !running && composer.empty && !composer.recorder;
  list();
}

function list() {
  const root = find("#chats");
  if (root.querySelector("input")) return; // a name is being written
  const focused = document.activeElement?.closest?.("#chats li")?.dataset.id;
  root.replaceChildren(...chats.map(row));
  if (!chats.length) root.append(h("li", { class: "none" }, "No chats yet"));
  if (focused) root.querySelector(`li[data-id="${focused}"] button`)?.focus();
}

function row(one) {
  const here = one === chat;
  const go = h("button", { type: "button", class: "open", "aria-current": here ? "page" : null, on: { click: () => { open(one); shut(); composer.area.focus(); } } },
    h("span", { class: "words" }, titled(one)), runs.has(one.id) ? h("span", { class: "dot live", role: "img", "aria-label": "being answered" }) : null);
  const name = titled(one);
  return h("li", { class: here ? "here" : "", data: { id: one.id } }, go, h("span", { class: "acts" },
    iconButton("edit", `Rename ${name}`, () => rename(one)), iconButton("save", `Export ${name}`, () => exported(one)),
    iconButton("bin", `Delete ${name}`, () => forget(one))));
}

function rename(one) {
  const item = find(`#chats li[data-id="${one.id}"]`);
  const field = h("input", { class: "rename", value: titled(one), "aria-label": "Name of the chat", maxlength: 120 });
  let over = false;
  const end = (keep) => {
    if (over) return;
    over = true;
    if (keep && field.value.trim()) one.title = field.value.trim();
    item.replaceChildren();
    save(one, false);
    draw();
    find(`#chats li[data-id="${one.id}"] button`)?.focus();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") { event.preventDefault(); event.stopPropagation(); end(event.key === "Enter"); }
  });
  field.addEventListener("blur", () => end(true));
  item.replaceChildren(field);
  field.select();
}

function forget(one) {
  stop(one);
  chats = chats.filter((other) => other !== one);
  store.remove(one.id);
  if (one === chat) open(fresh()); else draw();
  say(`“${titled(one)}” is deleted.`, "Undo", () => { chats = [...chats, one].sort((a, b) => b.changed - a.changed); save(one, false); open(one); });
}

function exported(one) {
  download(`${titled(one).replace(/[^\p{L}\p{N} _-]/gu, "").trim().slice(0, 60) || "chat"}.json`, JSON.stringify({ omniform: 1, chats: [one] }, null, 1), "application/json");
}

async function imported(file) {
  let found;
  try { found = JSON.parse(await file.text()).chats; } catch { found = null; }
  const good = (Array.isArray(found) ? found : []).filter((one) => one && Array.isArray(one.messages) && one.messages.every(sound));
  if (!good.length) { say("This file holds no chats that this page knows."); return; }
  for (const one of good) {
    const { model = null, settings: own = {}, title = "", messages } = one;
    const copy = { ...fresh(), title: String(title), model, settings: own, messages: messages.map((message) => ({ ...message, id: store.ident() })) };
    chats = [copy, ...chats];
    await save(copy);
  }
  open(chats[0]);
  say(good.length === 1 ? "One chat is here now." : `${good.length} chats are here now.`);
}

const sound = (message) => message && ["user", "assistant"].includes(message.role) && typeof message.text === "string" &&
  (message.items || []).every((item) => ["image", "audio", "video"].includes(item?.kind) && /^data:(image|audio|video)\//.test(item.url));

// ---- asking

function send(text, items) {
  if (runs.has(chat.id) || (!text && !items.length)) return false;
  chat.messages.push({ id: store.ident(), role: "user", text, items });
  answer(chat);
  return true;
}

/** Have the open end of a chat answered. */
async function answer(one) {
  const message = { id: store.ident(), role: "assistant", text: "", model: one.model, state: "writing" };
  one.messages.push(message);
  if (!chats.includes(one)) chats = [one, ...chats];
  const control = new AbortController();
  runs.set(one.id, { control, message });
  chats = [one, ...chats.filter((other) => other !== one)];
  save(one);
  if (one === chat) { thread.follow = true; thread.sync(); draw(); }
  engine.look();
  let asked = 0, savedAt = Date.now();
  const shown = () => {
    asked = 0;
    if (one === chat) thread.refresh(message);
    aloud(message, one);
    if (message.state === "writing" && Date.now() - savedAt > SAVED) { savedAt = Date.now(); save(one); }
  };
  await write(one, message, control.signal, () => { asked ||= requestAnimationFrame(shown); });
  cancelAnimationFrame(asked);
  runs.delete(one.id);
  shown();
  await save(one);
  if (one === chat) { thread.sync(); draw(); } else list();
}

function stop(one = chat) {
  const run = runs.get(one.id);
  run?.control.abort();
  return Boolean(run);
}

/** Drop a message and what follows it, and ask anew; what was can be had back. */
function anew(message, change) {
  if (runs.has(chat.id)) return;
  const one = chat, before = [...one.messages], at = one.messages.indexOf(message);
  const hadAnswer = before.slice(at).some((other) => other.role === "assistant" && other.text && other.state !== "failed");
  one.messages.splice(at);
  change(one);
  thread.sync();
  answer(one);
  if (hadAnswer) say("The earlier answer is replaced.", "Undo", () => { stop(one); setTimeout(() => { one.messages.splice(0, one.messages.length, ...before); save(one); if (one === chat) open(one); }, 50); });
}

const actions = {
  retry: (message) => anew(message, () => {}),
  edit: (message, text) => { if (text || message.items?.length) anew(message, (one) => one.messages.push({ ...message, id: store.ident(), text })); },
  results: () => { if (!runs.has(chat.id)) answer(chat); },
  kept: () => save(chat),
  settings: (field) => settings.open(field),
};

// ---- telling

/** A line that goes by itself, with something to do about it. */
function say(text, label, act) {
  const note = h("div", { class: "toast" }, h("span", {}, text));
  const gone = () => note.remove();
  if (label) note.append(button(label, () => { gone(); act(); }, { class: "plain" }));
  note.append(iconButton("cross", "Dismiss", gone));
  find("#toasts").append(note);
  let timer = setTimeout(gone, 9000);
  note.addEventListener("pointerenter", () => clearTimeout(timer));
  note.addEventListener("focusin", () => clearTimeout(timer));
  note.addEventListener("pointerleave", () => { timer = setTimeout(gone, 4000); });
}

let told = { id: null, end: 0, at: 0 };

/** Read an answer out by whole sentences, not by tokens, and not oftener than one can listen. */
function aloud(message, one) {
  if (one !== chat) return;
  const root = find("#heard"), over = message.state !== "writing";
  if (told.id !== message.id) { told = { id: message.id, end: 0, at: 0 }; root.replaceChildren(); }
  if (!over && Date.now() - told.at < 1500) return;
  const rest = message.text.slice(told.end);
  const cut = over ? rest.length : Math.max(rest.lastIndexOf(". "), rest.lastIndexOf("? "), rest.lastIndexOf("! "), rest.lastIndexOf("\n")) + 1;
  if (cut > 0) {
    root.append(h("p", {}, rest.slice(0, cut)));
    told.end += cut;
    told.at = Date.now();
  }
  if (over) {
    const word = { done: "The answer is complete.", stopped: "Stopped.", failed: `${message.problem?.title}. ${message.problem?.advice}` }[message.state];
    root.append(h("p", {}, word));
  }
}

// ---- the frame

function shut() { side(false); }

const small = matchMedia("(max-width: 50rem)");

function side(shown) {
  document.body.classList.toggle("side-open", shown);
  find("#open-side").setAttribute("aria-expanded", String(shown));
  find("#side").inert = small.matches && !shown;
  find(".column").inert = small.matches && shown;
}

const THEMES = ["auto", "light", "dark"];

function theme(next) {
  const root = document.documentElement;
  const now = root.dataset.theme || "auto";
  const chosen = next ? THEMES[(THEMES.indexOf(now) + 1) % 3] : now;
  if (chosen === "auto") delete root.dataset.theme; else root.dataset.theme = chosen;
  try { localStorage.setItem("omniform.theme", chosen); } catch { /* kept nowhere */ }
  const press = find("#theme"), label = { auto: "Colours: as the system has them", light: "Colours: light", dark: "Colours: dark" }[chosen];
  press.replaceChildren(icon(chosen));
  press.setAttribute("aria-label", label);
  press.title = label;
}

async function ask() {
  const pick = find("#model");
  try { models = await api.models(); } catch (error) {
    models = [];
    if (error.status === 401) { say(`${error.title}. ${error.advice}`, "Enter a key", () => settings.open("s-key")); } else say(`${error.title}. ${error.advice}`, "Try again", ask);
  }
  pick.replaceChildren(...models.map((name) => h("option", { value: name }, name)));
  pick.closest("label").hidden = !models.length;
  if (models.length && !models.includes(chat.model)) { chat.model = models[0]; if (!chat.messages.length) thread.open(chat); }
  draw();
  offer();
}

const MEDIA = { image: "pictures", audio: "sounds", video: "videos" };

/** Offer what the model of the chat reads, and say before it is sent what it does not. */
function offer() {
  const one = engine.told?.models.find((other) => other.name === chat.model || chat.model?.startsWith(`${other.name}:`));
  const reads = one?.reads || null, media = Object.keys(MEDIA).filter((kind) => !reads || reads.includes(kind));
  find("#record").hidden = !media.includes("audio") && !composer.recorder;
  const attach = find("#attach"), label = `Add ${media.map((kind) => MEDIA[kind]).join(" or ")}`;
  attach.hidden = !media.length;
  attach.title = label;
  attach.setAttribute("aria-label", label);
  find("#files").accept = media.map((kind) => `${kind}/*`).join(",");
  const wrong = composer.items.find((item) => !media.includes(item.kind)), note = find(".note");
  note.classList.toggle("wrong", Boolean(wrong));
  note.textContent = wrong ? `${one.name} reads no ${MEDIA[wrong.kind]}: choose another model.` : "Chats stay in this browser. Models make mistakes.";
  if (String(thread.reads) !== String(reads)) {
    thread.reads = reads;
    if (!chat.messages.length) thread.sync();
  }
}

const thread = new Thread(find("#thread"), actions);
const composer = new Composer(send, (text) => say(text));
const settings = new Settings((values) => { chat.settings = values; kept.set("settings", values); save(chat, false); }, () => { ask(); engine.look(); });
const engine = new EngineView(find("#engine"));

engine.busy = () => runs.size > 0;
engine.onlook = () => { if (chat) offer(); };
composer.onchange = () => { if (chat) { draw(); offer(); } };
thread.onscroll = (end) => { find("#latest").hidden = end; };
find("#latest").addEventListener("click", () => { thread.toEnd(); composer.area.focus(); });
find("#new").addEventListener("click", start);
find("#theme").addEventListener("click", () => theme(true));
find("#open-side").addEventListener("click", () => { side(true); find("#close-side").focus(); });
for (const name of ["#close-side", "#scrim"]) find(name).addEventListener("click", () => { shut(); find("#open-side").focus(); });
small.addEventListener("change", shut);
find("#send").addEventListener("click", (event) => { if (runs.has(chat.id)) { event.preventDefault(); stop(); } });
find("#model").addEventListener("change", (event) => {
  chat.model = event.target.value;
  kept.set("model", chat.model);
  save(chat, false);
  if (!chat.messages.length) thread.open(chat);
  offer();
});
find("#export-all").addEventListener("click", () => download("chats.json", JSON.stringify({ omniform: 1, chats }, null, 1), "application/json"));
find("#import").addEventListener("click", () => find("#import-file").click());
find("#import-file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) { settings.sheet.close(); await imported(file); }
});
if (/Mac|iPhone|iPad/.test(navigator.platform)) find("#new kbd").textContent = "⌘ K";

addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && event.key.toLowerCase() === "k") {
    event.preventDefault();
    settings.sheet.close();
    start();
  } else if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
    if (composer.drop()) return;
    if (document.body.classList.contains("side-open")) { shut(); find("#open-side").focus(); } else stop();
  } else if (event.key === "ArrowUp" && event.target === composer.area && composer.empty) {
    const last = chat.messages.findLast((message) => message.role === "user");
    if (last && !runs.has(chat.id)) { event.preventDefault(); thread.edit(last); }
  }
});

addEventListener("pagehide", () => { for (const [id, { message }] of runs) { message.state = "stopped"; const one = chats.find((other) => other.id === id); if (one) store.put(one); } });

chats = await store.all();
for (const one of chats) for (const message of one.messages) if (message.state === "writing") message.state = "stopped";
const last = kept.get("chat", null);
theme(false);
shut();
open(chats.find((one) => one.id === last) || fresh());
composer.fit();
if (!small.matches) composer.area.focus();
ask();
