// The chat page: one conversation with any model of the swarm, kept in this tab only.

import { byId, el, show } from "./dom.js";
import { Shown } from "./shown.js";
import { call, events } from "./server.js";
import { noModel, problem } from "./swarm.js";

const FETCH_MS = 1000;

let conversation = [];
let running = null;
let state = null;

export function start() {
  byId("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  byId("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (byId("text").value.trim()) byId("ask").requestSubmit(); }
  });
  // What is wrong in a folded setting would be complained of where nobody sees it.
  for (const input of document.querySelectorAll("#settings input")) input.addEventListener("invalid", () => { byId("settings").open = true; });
  byId("stop").addEventListener("click", () => running?.abort());
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !byId("chat").hidden) running?.abort(); });
  byId("new-chat").addEventListener("click", () => { running?.abort(); conversation = []; byId("messages").replaceChildren(); greet(); byId("text").focus(); });
  byId("model").addEventListener("change", about);
  byId("empty").addEventListener("click", (event) => {
    if (!event.target.closest("button")) return;
    byId("text").value = event.target.closest("button").textContent;
    byId("text").focus();
  });
}

/** Keep the choice of models as the swarm has them now, and say why one can't be used. */
export function know(now) {
  const before = JSON.stringify(state?.models);
  state = now;
  if (JSON.stringify(state.models) !== before) {
    const select = byId("model"), chosen = select.value;
    select.replaceChildren(...state.models.map((m) => el("option", { value: m.name }, m.servable ? m.name : `${m.name} (can't be served now)`)));
    const wanted = state.models.find((m) => m.name === chosen) ?? state.models.find((m) => m.servable);
    if (wanted) select.value = wanted.name;
  }
  about();
}

function about() {
  const model = state.models.find((m) => m.name === byId("model").value);
  show(byId("unservable"), ...(!state.models.length ? [noModel(state)] : model && !model.servable ? [problem(model, state)] : []));
  greet();
}

/** What an empty page says; nothing once there is a conversation, or no model to have one with. */
function greet() {
  byId("empty").hidden = byId("messages").childElementCount > 0 || !state?.models.some((m) => m.servable);
}

const number = (id) => byId(id).value === "" ? undefined : Number(byId(id).value);

async function ask() {
  const text = byId("text").value.trim();
  if (!text || running) return;
  byId("text").value = "";
  // A new chat begins another list: what this answer says still belongs to the old one.
  const turns = conversation;
  turns.push({ role: "user", content: text });
  add(el("div", { class: "message user" }, text));
  greet();
  const shown = new Shown(state);
  add(shown.element);
  running = new AbortController();
  busy(true);
  const system = byId("system").value.trim();
  const body = {
    model: byId("model").value, stream: true, stream_options: { include_usage: true }, swarm: { route: true },
    messages: [...(system ? [{ role: "system", content: system }] : []), ...turns],
    temperature: number("temperature"), max_completion_tokens: number("max-tokens"), seed: number("seed"),
  };
  try {
    await stream(body, shown, running.signal);
    shown.end("");
  } catch (error) {
    if (error.name === "AbortError") shown.end("stopped");
    else shown.fail(error.message);
    // Nothing came of it: what was typed is there to be sent again.
    if (!shown.text && turns === conversation && !byId("text").value) byId("text").value = text;
  } finally {
    // What was said counts for the next turn, also when it was stopped.
    if (shown.text) turns.push({ role: "assistant", content: shown.text });
    else turns.pop();
    byId("spoken").textContent = shown.text.slice(0, 2000);
    running = null;
    busy(false);
    byId("text").focus();
  }
}

/** Show an answer as it comes; throws what keeps it from being whole. */
async function stream(body, shown, signal) {
  let answer;
  for (;;) {
    shown.asked();
    answer = await call("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
    if (answer.ok) break;
    const error = (await answer.json().catch(() => null))?.error;
    if (error?.code !== "model_loading") throw new Error(error?.message ?? `The server answered ${answer.status}.`);
    shown.wait(`${body.model} is being fetched for this front door …`);
    await pause(FETCH_MS, signal);
  }
  shown.goes(answer.headers.get("x-swarm-route") ?? "");
  for await (const event of events(answer)) {
    if (event.data === "[DONE]") return;
    const chunk = JSON.parse(event.data);
    if (chunk.error) throw new Error(chunk.error.message);
    shown.take(chunk);
  }
  throw new Error("The connection ended before the answer did.");
}

const pause = (milliseconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, milliseconds);
  signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
});

function busy(yes) {
  byId("send").hidden = yes;
  byId("stop").hidden = !yes;
  byId("messages").setAttribute("aria-busy", String(yes));
}

function add(element) {
  byId("messages").append(element);
  element.scrollIntoView({ block: "end" });
}
