// What the page asks of the server: OpenAI's chat completions, the models, the engine's counts.

const KEY = "omniform.key";

export const key = {
  get: () => { try { return sessionStorage.getItem(KEY) || ""; } catch { return ""; } },
  set: (text) => { try { text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY); } catch { /* kept nowhere */ } },
};

/** What went wrong, for a person: what happened, and what to do. */
export class Problem extends Error {
  constructor(title, advice, { status = 0, code = null, detail = "", wait = 0 } = {}) {
    super(title);
    Object.assign(this, { title, advice, status, code, detail, wait });
  }
}

function headers(more = {}) {
  const secret = key.get();
  return secret ? { ...more, Authorization: `Bearer ${secret}` } : more;
}

const SAYINGS = {
  401: ["The server wants a key", "Open the settings and enter an API key that this server knows."],
  403: ["This key may not do that", "Choose another model, or ask whoever runs the server."],
  404: ["The server does not have this", "Choose another model in the settings."],
  408: ["The request came too slowly", "Try again; smaller pictures and sounds help on a slow line."],
  413: ["This is too large for the server", "Take out a picture or a sound, or start a new chat."],
  422: ["The server cannot use this request", "Change what is named below, and try again."],
  429: ["The server is busy", "Wait a little, and try again."],
  499: ["The answer was given up", "Try again."],
  500: ["The server failed at this", "Try again; if it stays so, whoever runs the server finds the reason in its log."],
  503: ["The server cannot answer now", "It may be loading the model. Try again in a moment."],
  504: ["The answer took too long", "Ask for a shorter one (settings, longest answer), and try again."],
};

/** A problem out of an answer that is none. */
export function problemOf(status, error, wait = 0) {
  const said = error && typeof error.message === "string" ? error.message : "";
  const code = error && typeof error.code === "string" ? error.code : null;
  let [title, advice] = SAYINGS[status] || (status >= 500 ? SAYINGS[500] : ["The server refuses this request", "Change what is named below, and try again."]);
  if (status === 400 && /position|window|too long|longer than|tokens|fit/i.test(said)) advice = "The chat may be longer than the model reads: start a new one, or take out earlier messages.";
  if (code === "no_chat_template") advice = "This model does not chat. Choose another one in the settings.";
  if (wait) advice = `Try again in ${wait} second${wait === 1 ? "" : "s"}.`;
  return new Problem(title, advice, { status, code, detail: said, wait });
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer", "See whether it runs and your line is up, then try again.");
  }
  if (answer.ok) return answer;
  let error = null;
  try { error = (await answer.json()).error; } catch { /* no words of the server's */ }
  throw problemOf(answer.status, error, Math.ceil(Number(answer.headers.get("retry-after"))) || 0);
}

export async function models() {
  return (await (await ask("v1/models")).json()).data.map((one) => one.id);
}

export async function engine() {
  return (await ask("engine")).json();
}

/** The data of server-sent events. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", held = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      rest += done ? "\n\n" : value;
      // A lone \r at the end may be the first half of \r\n.
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = done ? "" : lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (held.length) yield held.join("\n");
          held = [];
        } else if (line.startsWith("data:")) held.push(line.slice(line[5] === " " ? 6 : 5));
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** An answer's chunks, as they come. */
export async function* answer(body, signal) {
  const got = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let whole = false;
  try {
    for await (const data of events(got.body)) {
      if (data === "[DONE]") { whole = true; break; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw problemOf(Number(chunk.error.code) || statusOf(chunk.error.type), chunk.error);
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Problem) throw error;
    throw new Problem("The line broke in the middle of the answer", "What came is kept. Try again for a whole one.", { detail: String(error.message || error) });
  }
  if (!whole) throw new Problem("The answer ended too early", "What came is kept. Try again for a whole one.");
}

const statusOf = (type) => ({ invalid_request_error: 400, authentication_error: 401, permission_error: 403, rate_limit_error: 429 })[type] || 500;
