// Chats, kept in this browser and nowhere else (IndexedDB); where it keeps nothing, in memory while the page is open.

const NAME = "omniform", STORE = "chats";

let opening = null;
const memory = new Map();

function open() {
  opening ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open(NAME, 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore(STORE, { keyPath: "id" });
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
  return opening;
}

async function use(mode, work) {
  const base = await open();
  return new Promise((resolve, reject) => {
    const trade = base.transaction(STORE, mode);
    const asked = work(trade.objectStore(STORE));
    trade.oncomplete = () => resolve(asked.result);
    trade.onabort = trade.onerror = () => reject(trade.error);
  });
}

/** All chats, the last used first. */
export async function all() {
  let found;
  try { found = await use("readonly", (store) => store.getAll()); } catch { found = []; }
  for (const one of memory.values()) if (!found.some((other) => other.id === one.id)) found.push(one);
  return found.sort((a, b) => b.changed - a.changed);
}

/** Keep a chat; whether it outlives the page. */
export async function put(chat) {
  try {
    await use("readwrite", (store) => store.put(structuredClone(chat)));
    memory.delete(chat.id);
    return true;
  } catch {
    memory.set(chat.id, chat);
    return false;
  }
}

export async function remove(id) {
  memory.delete(id);
  try { await use("readwrite", (store) => store.delete(id)); } catch { /* it was in memory only */ }
}

/** Small settings. */
export const kept = {
  get(name, otherwise) {
    try {
      const text = localStorage.getItem(`omniform.${name}`);
      return text === null ? otherwise : JSON.parse(text);
    } catch { return otherwise; }
  },
  set(name, value) { try { localStorage.setItem(`omniform.${name}`, JSON.stringify(value)); } catch { /* kept nowhere */ } },
};

export const ident = () => Array.from(crypto.getRandomValues(new Uint8Array(9)), (one) => one.toString(36).padStart(2, "0")).join("");
