// One answer: from a chat to a request, and from the chunks that come back to a message.

import { Problem, answer } from "./api.js";
import { partOf } from "./media.js";

/** What is sent for a chat up to a message that is to be written. */
export function bodyOf(chat, upTo) {
  const settings = chat.settings || {}, messages = [];
  if (settings.system) messages.push({ role: "system", content: settings.system });
  for (const message of chat.messages) {
    if (message === upTo) break;
    if (message.role === "user") messages.push({ role: "user", content: contentOf(message) });
    else if (message.role === "assistant") messages.push(...answered(message));
  }
  const body = { messages };
  if (chat.model) body.model = chat.model;
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) if (settings[name] !== undefined) body[name] = settings[name];
  if (settings.tools?.length) body.tools = settings.tools;
  return body;
}

function contentOf(message) {
  if (!message.items?.length) return message.text;
  const parts = message.items.map(partOf);
  if (message.text) parts.push({ type: "text", text: message.text });
  return parts;
}

/** An answer as the model gets it again, with what its calls brought. */
function answered(message) {
  const calls = message.calls || [];
  if (!message.text && !calls.length) return [];
  const said = { role: "assistant", content: message.text };
  if (!calls.length) return [said];
  said.tool_calls = calls.map((call) => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } }));
  return [said, ...calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: call.result ?? "" }))];
}

/** Let the server write a message; `changed` is called whenever it grew. */
export async function write(chat, message, signal, changed) {
  const began = performance.now();
  try {
    for await (const chunk of answer(bodyOf(chat, message), signal)) {
      if (chunk.model) message.model = chunk.model;
      if (chunk.usage) message.usage = { prompt: chunk.usage.prompt_tokens, written: chunk.usage.completion_tokens };
      const choice = chunk.choices?.[0];
      if (choice && taken(message, choice, performance.now() - began)) changed();
    }
    message.state = "done";
  } catch (error) {
    if (error.name === "AbortError") message.state = "stopped";
    else {
      const { title, advice, detail, status, code } = error instanceof Problem ? error : new Problem("The page failed at this answer", "Try again.", { detail: String(error.message) });
      message.state = "failed";
      message.problem = { title, advice, detail, status, code };
    }
  }
  message.seconds = (performance.now() - began) / 1000;
  changed();
}

function taken(message, choice, now) {
  const delta = choice.delta || {};
  let grew = false;
  if (choice.finish_reason) { message.finish = choice.finish_reason; grew = true; }
  if (delta.reasoning_content) {
    message.reasoning = (message.reasoning || "") + delta.reasoning_content;
    message.thoughtFrom ??= now;
    grew = true;
  }
  if (delta.content) {
    if (message.thoughtFrom !== undefined && message.thought === undefined) message.thought = (now - message.thoughtFrom) / 1000;
    message.text += delta.content;
    grew = true;
  }
  for (const part of delta.tool_calls || []) {
    const calls = (message.calls ??= []);
    const call = (calls[part.index] ??= { id: "", name: "", arguments: "" });
    if (part.id) call.id = part.id;
    if (part.function?.name) call.name += part.function.name;
    if (part.function?.arguments) call.arguments += part.function.arguments;
    grew = true;
  }
  if (grew) message.first ??= now / 1000;
  return grew;
}
