// The conversation as it is shown.

import { button, copy, h, icon, iconButton } from "./dom.js";
import { show } from "./markdown.js";

/** Shows a chat; `actions` are what can be done with a message: edit, retry, stop, results. */
export class Thread {
  constructor(root, actions) {
    Object.assign(this, { root, actions, chat: null, reads: null, nodes: new Map(), follow: true });
    root.addEventListener("scroll", () => {
      this.follow = root.scrollHeight - root.scrollTop - root.clientHeight < 60;
      this.onscroll?.(this.follow);
    }, { passive: true });
  }

  /** Show a chat from its beginning. */
  open(chat) {
    this.chat = chat;
    this.nodes.clear();
    this.root.replaceChildren();
    this.sync();
    this.toEnd();
  }

  /** Show what came, went or changed in the chat. */
  sync() {
    const { messages } = this.chat;
    for (const [id, node] of this.nodes) {
      if (!messages.some((one) => one.id === id)) { node.remove(); this.nodes.delete(id); }
    }
    this.root.querySelector(".welcome")?.remove();
    if (!messages.length) this.root.append(welcome(this.chat, this.reads));
    for (const message of messages) {
      let node = this.nodes.get(message.id);
      if (!node) {
        node = message.role === "user" ? this.asked(message) : this.answered(message);
        this.nodes.set(message.id, node);
        this.root.append(node);
      }
      node.classList.toggle("last", message === messages.at(-1));
      node.refresh?.();
    }
    if (this.follow) this.toEnd();
  }

  /** Show how a message grew. */
  refresh(message) {
    this.nodes.get(message.id)?.refresh?.();
    if (this.follow) this.toEnd();
  }

  toEnd() {
    this.root.scrollTop = this.root.scrollHeight;
    this.follow = true;
    this.onscroll?.(true);
  }

  asked(message) {
    const acts = h("div", { class: "acts" },
      iconButton("edit", "Edit this message", () => this.edit(message)), copier("Copy this message", () => message.text));
    return h("article", { class: "said user", data: { id: message.id } },
      h("h2", { class: "unseen" }, "You said"),
      message.items?.length ? h("div", { class: "media" }, message.items.map((one, i) => medium(one, `${nameOf(one)} ${i + 1} of your message`))) : null,
      message.text ? h("div", { class: "bubble" }, message.text) : null, acts);
  }

  /** Turn a message into a field; what comes after it is asked anew. */
  edit(message) {
    const node = this.nodes.get(message.id);
    if (!node || node.querySelector(".editing")) return;
    const area = h("textarea", { class: "edit", "aria-label": "Your message", rows: 3, value: message.text });
    const close = () => { form.remove(); node.classList.remove("open"); node.querySelector(".acts button").focus(); };
    const send = () => { close(); this.actions.edit(message, area.value.trim()); };
    const form = h("form", { class: "editing", on: { submit: (event) => { event.preventDefault(); send(); } } }, area,
      h("div", { class: "row" }, button("Cancel", close), h("button", { type: "submit", class: "plain strong" }, "Send anew")));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { event.stopPropagation(); close(); }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
    });
    node.classList.add("open");
    node.insertBefore(form, node.querySelector(".acts"));
    area.focus();
  }

  answered(message) {
    const thought = h("div", { class: "markdown" }), summary = h("summary", {}, "Thinking"), body = h("div", { class: "markdown body" });
    const reasoning = h("details", { class: "thought", hidden: true }, summary, thought);
    const calls = h("div", { class: "calls" }), problem = h("div", { class: "problem", hidden: true }), facts = h("span", { class: "facts" });
    const waiting = h("p", { class: "waiting" }, h("span", { class: "pulse", "aria-hidden": "true" }), h("span", {}, "Waiting for the first word"));
    const acts = h("div", { class: "acts" }, copier("Copy this answer", () => message.text), iconButton("retry", "Answer anew", () => this.actions.retry(message)), facts);
    const node = h("article", { class: "said model", data: { id: message.id } },
      h("h2", { class: "unseen" }, `${message.model || "The model"} answered`), reasoning, waiting, body, calls, problem, acts);
    node.refresh = () => {
      const writing = message.state === "writing";
      node.classList.toggle("writing", writing);
      node.setAttribute("aria-busy", String(writing));
      node.querySelector("h2").textContent = `${message.model || "The model"} ${writing ? "answers" : "answered"}`;
      waiting.hidden = !writing || Boolean(message.text || message.reasoning || message.calls?.length);
      reasoning.hidden = !message.reasoning;
      if (message.reasoning) {
        summary.textContent = message.text || !writing ? `Thought${message.thought ? ` for ${seconds(message.thought)}` : ""}` : "Thinking …";
        show(thought, message.reasoning);
      }
      show(body, message.text);
      this.showCalls(calls, message);
      acts.hidden = writing || Boolean(message.problem && !message.text); // a problem has its own way to try again
      facts.textContent = factsOf(message);
      problem.hidden = !message.problem;
      if (message.problem) problem.replaceChildren(...this.problem(message));
    };
    node.refresh();
    return node;
  }

  showCalls(root, message) {
    const calls = (message.calls || []).filter(Boolean);
    calls.forEach((call, at) => {
      let node = root.children[at];
      if (!node || !node.matches("details")) {
        node = h("details", { class: "call" }, h("summary", {}, icon("tool"), h("span", { class: "name" })), h("pre", { tabindex: "0" }), h("div", { class: "result" }));
        root.insertBefore(node, root.children[at] || null);
      }
      node.querySelector(".name").textContent = `Calls ${call.name}`;
      node.querySelector("pre").textContent = pretty(call.arguments);
      node.querySelector("pre").setAttribute("aria-label", `What ${call.name} is given`);
      const result = node.querySelector(".result");
      if (message.state !== "writing" && !result.firstChild) {
        const area = h("textarea", { rows: 2, class: "mono", "aria-label": `What ${call.name} gave`, placeholder: "What the tool gave", value: call.result || "" });
        area.addEventListener("input", () => { call.result = area.value; this.actions.kept(message); });
        result.append(area);
        node.open = !call.result;
      }
    });
    const last = message === this.chat.messages.at(-1);
    let go = root.querySelector(".go");
    if (calls.length && message.state === "done" && last && !go) {
      go = button("Go on with these results", () => this.actions.results(message), { class: "plain strong go" });
      root.append(go);
    } else if (go && !last) go.remove();
  }

  problem(message) {
    const { title, advice, detail, status } = message.problem;
    const more = status === 401 ? button("Enter a key", () => this.actions.settings("s-key")) : null;
    return [h("strong", {}, title), h("p", {}, advice), detail ? h("p", { class: "detail" }, detail) : null,
      h("div", { class: "row" }, button("Try again", () => this.actions.retry(message), { class: "plain strong" }), more)].filter(Boolean);
  }
}

const nameOf = (item) => ({ image: "Picture", audio: "Sound", video: "Video" })[item.kind];

/** A picture, a sound or a video, shown. */
export function medium(item, label) {
  if (item.kind === "image") return h("img", { src: item.url, alt: `${label}: ${item.name}` });
  return h(item.kind, { src: item.url, controls: true, "aria-label": `${label}: ${item.name}` });
}

function copier(label, text) {
  const press = iconButton("copy", label, async () => {
    const done = await copy(text());
    press.replaceChildren(icon(done ? "check" : "cross"));
    press.setAttribute("aria-label", done ? "Copied" : "It cannot be copied");
    setTimeout(() => { press.replaceChildren(icon("copy")); press.setAttribute("aria-label", label); }, 1500);
  });
  return press;
}

const MEDIA = { image: "pictures", audio: "sounds", video: "videos" };

/** What is to be seen before the first message; `reads` is what the model reads, where that is known. */
function welcome(chat, reads) {
  const media = Object.keys(MEDIA).filter((kind) => (reads || ["image", "audio"]).includes(kind)).map((kind) => MEDIA[kind]);
  const words = media.join(", ").replace(/, (?=[^,]*$)/, " and ");
  const how = media.length ? ` ${words[0].toUpperCase()}${words.slice(1)} can be dropped anywhere on this page, pasted${media.includes("sounds") ? ", recorded" : ""} or chosen.` : "";
  return h("div", { class: "welcome" }, h("p", { class: "hello" }, chat.model ? `Ask ${chat.model}` : "Ask away"), h("p", {}, `Write below.${how}`));
}

function pretty(text) {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

const seconds = (count) => (count < 10 ? `${count.toFixed(1)} s` : `${Math.round(count)} s`);

/** What is known of an answer, in a line. */
function factsOf(message) {
  if (message.state === "writing") return "";
  const told = [];
  if (message.model) told.push(message.model);
  if (message.usage) {
    const { written } = message.usage, spent = message.seconds - (message.first || 0);
    told.push(`${written} token${written === 1 ? "" : "s"}`);
    if (written > 1 && spent > 0.005) told.push(`${Math.round((written - 1) / spent)} per second`);
  }
  if (message.first !== undefined) told.push(`first after ${message.first < 1 ? `${Math.round(message.first * 1000)} ms` : seconds(message.first)}`);
  if (message.state === "stopped") told.push("stopped");
  if (message.finish === "length") told.push("cut at its longest");
  return told.join(" · ");
}
