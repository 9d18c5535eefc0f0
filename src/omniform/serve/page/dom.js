// Elements out of plain data. Text only ever becomes text nodes: nothing here, or anywhere on the page, reads markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: properties by name, `on` for listeners, `class`, `data` and attributes; children are nodes or texts. */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "on") for (const [kind, call] of Object.entries(value)) node.addEventListener(kind, call);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** A picture out of the sprite of the page. */
export function icon(name) {
  const node = document.createElementNS(SVG, "svg");
  node.setAttribute("class", "icon");
  node.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  node.append(use);
  return node;
}

/** A button that is a picture; its label is read out, and shown when pointed at. */
export function iconButton(name, label, click, more = {}) {
  return h("button", { type: "button", class: "quiet", "aria-label": label, title: label, on: { click }, ...more }, icon(name));
}

/** A button with words. */
export function button(label, click, more = {}) {
  return h("button", { type: "button", class: "plain", on: { click }, ...more }, label);
}

export const find = (selector, root = document) => root.querySelector(selector);

/** Bytes in words. */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (count >= 1000 && at < units.length - 1) { count /= 1000; at += 1; }
  return `${count >= 100 || at === 0 ? Math.round(count) : count.toFixed(1)} ${units[at]}`;
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // not a secure context: the old way
    const area = h("textarea", { class: "unseen", value: text, "aria-hidden": "true" });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** Hand a text to the browser as a file. */
export function download(name, text, kind) {
  const url = URL.createObjectURL(new Blob([text], { type: kind }));
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
