// Markdown as models write it, made into nodes. What a model writes is text wherever it is not one of the few shapes
// below: markup in it is shown, addresses of other kinds than the web's are no links, and pictures are not loaded.

import { copy, h, icon } from "./dom.js";
import { coloured } from "./code.js";

const DEEPEST = 10; // of lists in lists and emphasis in emphasis
const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?(?:\s+#+)?\s*$/;
const RULE = /^ {0,3}(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])(?:\s+(.*))?$/;
const QUOTE = /^ {0,3}> ?/;
const CELLS = /^ {0,3}\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/** Show a text in a node; blocks that stayed as they were keep their nodes, so that a stream leaves selections alone. */
export function show(node, text) {
  const found = blocks(text), old = node.shown || [];
  let same = 0;
  while (same < old.length && same < found.length && old[same].source === found[same].source && old[same].kind === found[same].kind) same += 1;
  while (node.childNodes.length > same) node.lastChild.remove();
  for (const block of found.slice(same)) node.append(drawn(block, 0));
  node.shown = found;
}

/** The blocks of a text. */
export function blocks(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n"), found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) { at += 1; continue; }
    const start = at, block = taken(lines, at);
    at = block.end;
    found.push({ ...block, source: lines.slice(start, at).join("\n") });
  }
  return found;
}

function taken(lines, at) {
  const line = lines[at];
  let match;
  if ((match = FENCE.exec(line))) return fenced(lines, at, match);
  if ((match = HEADING.exec(line))) return { kind: "heading", level: match[1].length, text: match[2] || "", end: at + 1 };
  if (RULE.test(line)) return { kind: "rule", end: at + 1 };
  if (QUOTE.test(line)) {
    let end = at;
    while (end < lines.length && QUOTE.test(lines[end])) end += 1;
    return { kind: "quote", text: lines.slice(at, end).map((one) => one.replace(QUOTE, "")).join("\n"), end };
  }
  if (ITEM.test(line)) return listed(lines, at);
  if (line.includes("|") && at + 1 < lines.length && CELLS.test(lines[at + 1]) && lines[at + 1].includes("-")) {
    let end = at + 2;
    while (end < lines.length && lines[end].trim() && lines[end].includes("|")) end += 1;
    return { kind: "table", rows: lines.slice(at, end), end };
  }
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !begins(lines[end])) end += 1;
  return { kind: "text", text: lines.slice(at, end).join("\n"), end };
}

const begins = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

function fenced(lines, at, [, indent, fence, language]) {
  const closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const text = lines.slice(at + 1, end).map((one) => (one.startsWith(indent) ? one.slice(indent.length) : one)).join("\n");
  return { kind: "code", language, text, open: end >= lines.length, end: Math.min(end + 1, lines.length) };
}

function listed(lines, at) {
  const [, lead, marker] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(marker), items = [];
  let end = at, width = 0, blank = false, loose = false;
  while (end < lines.length) {
    const line = lines[end], match = ITEM.exec(line);
    if (!line.trim()) { blank = true; end += 1; continue; }
    const indent = line.length - line.trimStart().length;
    if (match && indent < lead.length + 2 && /\d/.test(match[2]) === ordered && !RULE.test(line)) {
      width = indent + match[2].length + 1;
      if (blank && items.length) loose = true;
      items.push([match[3] || ""]);
    } else if (items.length && (indent >= Math.min(width, lead.length + 2) || !blank && !begins(line))) {
      if (blank) items.at(-1).push("");
      items.at(-1).push(line.slice(Math.min(width, indent)));
    } else break;
    blank = false;
    end += 1;
  }
  while (end > at + 1 && !lines[end - 1].trim()) end -= 1;
  return { kind: "list", ordered, first: ordered ? parseInt(marker, 10) : 1, items: items.map((one) => one.join("\n")), loose, end };
}

function drawn(block, depth) {
  switch (block.kind) {
    case "heading": return h(`h${Math.min(block.level + 2, 6)}`, {}, inline(block.text, 0));
    case "rule": return h("hr");
    case "code": return code(block);
    case "quote": return h("blockquote", {}, inner(block.text, depth));
    case "list": return list(block, depth);
    case "table": return table(block.rows);
    default: return h("p", {}, inline(block.text, 0));
  }
}

function inner(text, depth) {
  if (depth >= DEEPEST) return [h("p", {}, text)];
  return blocks(text).map((block) => drawn(block, depth + 1));
}

function list(block, depth) {
  const node = h(block.ordered ? "ol" : "ul", block.ordered && block.first !== 1 ? { start: block.first } : {});
  for (const text of block.items) {
    const task = /^\[([ xX])\]\s+/.exec(text);
    const nodes = inner(task ? text.slice(task[0].length) : text, depth);
    // An item of a tight list is its words, not a paragraph of them.
    if (!block.loose && nodes[0]?.tagName === "P") nodes.splice(0, 1, ...nodes[0].childNodes);
    if (task) nodes.unshift(h("span", { class: "task", role: "img", "aria-label": task[1] === " " ? "to do: " : "done: " }, task[1] === " " ? "☐ " : "☑ "));
    node.append(h("li", {}, nodes));
  }
  return node;
}

function table(rows) {
  const cells = (row) => row.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const sides = cells(rows[1]).map((cell) => (/^:-+:$/.test(cell) ? "middle" : /-:$/.test(cell) ? "right" : undefined));
  const row = (text, tag) => h("tr", {}, cells(text).slice(0, sides.length).map((cell, i) => h(tag, { class: sides[i], scope: tag === "th" ? "col" : undefined }, inline(cell, 0))));
  // It can be scrolled sideways, so it can be reached by keys.
  return h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table" },
    h("table", {}, h("thead", {}, row(rows[0], "th")), h("tbody", {}, rows.slice(2).map((one) => row(one, "td")))));
}

function code(block) {
  const press = h("button", { type: "button", class: "quiet", "aria-label": "Copy code", title: "Copy code" }, icon("copy"));
  press.addEventListener("click", async () => {
    const done = await copy(block.text);
    press.replaceChildren(icon(done ? "check" : "cross"));
    press.setAttribute("aria-label", done ? "Copied" : "It cannot be copied");
    setTimeout(() => { press.replaceChildren(icon("copy")); press.setAttribute("aria-label", "Copy code"); }, 1500);
  });
  return h("figure", { class: "code" },
    h("figcaption", {}, h("span", {}, block.language || "text"), press),
    h("pre", { tabindex: "0", "aria-label": `Code${block.language ? `, ${block.language}` : ""}` }, h("code", {}, coloured(block.text, block.language))));
}

const PLAIN = /[^\\`*_~[<!h\n]+/y;
const WEB = /https?:\/\/[^\s<>"'`\\]+/y;
const SAFE = /^(?:https?:\/\/|mailto:)/i;
const MARKS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };

/** The nodes of a line's text. */
export function inline(text, depth) {
  const nodes = [], missing = new Set(); // what is not closed from here on is not looked for twice
  let at = 0, words = "";
  const flush = () => { if (words) nodes.push(words); words = ""; };
  while (at < text.length) {
    PLAIN.lastIndex = at;
    const run = PLAIN.exec(text);
    if (run) { words += run[0]; at += run[0].length; continue; }
    const found = special(text, at, depth, missing);
    if (found) { flush(); nodes.push(found.node); at = found.end; } else { words += text[at]; at += 1; }
  }
  flush();
  return nodes;
}

function special(text, at, depth, missing) {
  const letter = text[at];
  if (letter === "\n") return { node: h("br"), end: at + 1 };
  if (letter === "\\") return /[!-/:-@[-`{-~]/.test(text[at + 1] || "") ? { node: text[at + 1], end: at + 2 } : null;
  if (letter === "`") return quoted(text, at, missing);
  if (letter === "h") {
    WEB.lastIndex = at;
    const web = at && /\w/.test(text[at - 1]) ? null : WEB.exec(text);
    if (!web) return null;
    const address = web[0].replace(/[.,;:!?)\]*_~]+$/, "");
    return { node: link(address, [address]), end: at + address.length };
  }
  if (letter === "[") return linked(text, at, depth, missing);
  if (letter === "<") {
    const web = /^<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/.exec(text.slice(at, at + 2010));
    return web ? { node: link(web[1], [web[1]]), end: at + web[0].length } : null;
  }
  for (const mark of [text.slice(at, at + 2), letter]) if (mark in MARKS) return emphasised(text, at, mark, depth, missing);
  return null;
}

function quoted(text, at, missing) {
  const mark = /^`+/.exec(text.slice(at, at + 100))[0];
  let end = missing.has(mark) ? -1 : text.indexOf(mark, at + mark.length);
  while (end >= 0 && (text[end + mark.length] === "`" || text[end - 1] === "`")) end = text.indexOf(mark, end + mark.length);
  if (end < 0) { missing.add(mark); return { node: mark, end: at + mark.length }; }
  const said = text.slice(at + mark.length, end).replace(/\n/g, " ");
  return { node: h("code", {}, /^ .*\S.* $/.test(said) ? said.slice(1, -1) : said), end: end + mark.length };
}

function emphasised(text, at, mark, depth, missing) {
  const word = /\w/, next = text[at + mark.length] || "", none = { node: mark, end: at + mark.length };
  if (!next.trim() || missing.has(mark) || depth >= DEEPEST) return none;
  if (mark[0] === "_" && at && word.test(text[at - 1])) return none;
  for (let end = text.indexOf(mark, at + mark.length + 1); end >= 0; end = text.indexOf(mark, end + 1)) {
    if (!text[end - 1].trim() || text[end - 1] === "\\") continue;
    const after = text[end + mark.length] || "";
    if (mark.length === 1 && (after === mark || text[end - 1] === mark)) continue; // one half of a double mark
    if (mark === "**" && after === "*") end += 1; // ***both***
    if (mark[0] === "_" && word.test(text[end + mark.length] || "")) continue;
    return { node: h(MARKS[mark], {}, inline(text.slice(at + mark.length, end), depth + 1)), end: end + mark.length };
  }
  missing.add(mark);
  return none;
}

function linked(text, at, depth, missing) {
  if (missing.has("](") || depth >= DEEPEST) return null;
  if (text.indexOf("](", at) < 0) { missing.add("]("); return null; }
  const match = /^\[((?:[^[\]\\]|\\.|\[[^[\]]{0,200}\]){0,500})\]\(\s*<?([^\s<>]{1,2000}?)>?(?:\s+"[^"]{0,500}")?\s*\)/.exec(text.slice(at, at + 3100));
  if (!match) return null;
  // What leads elsewhere than to the web is no link: it stays what was written.
  if (!SAFE.test(match[2])) return { node: match[0], end: at + match[0].length };
  return { node: link(match[2], inline(match[1], depth + 1)), end: at + match[0].length };
}

function link(address, nodes) {
  let target;
  try { target = new URL(address).href; } catch { return h("span", {}, nodes); }
  return h("a", { href: target, title: target, target: "_blank", rel: "noopener noreferrer nofollow" }, nodes);
}
