// The chat page: one conversation with any model of the swarm, kept in this tab only.

import { byId, el, layersOf, plural } from "./dom.js";
import { markdown } from "./markdown.js";
import { call, events } from "./server.js";

const conversation = [];
let running = null;
let models = [];

export function start() {
  byId("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  byId("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); ask(); }
  });
  byId("stop").addEventListener("click", () => running?.abort());
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !byId("chat").hidden) running?.abort(); });
  byId("new-chat").addEventListener("click", () => { running?.abort(); conversation.length = 0; byId("messages").replaceChildren(); byId("text").focus(); });
  byId("model").addEventListener("change", about);
}

/** Keep the choice of models as the swarm has them now, and say why one can't be used. */
export function know(state) {
  const before = JSON.stringify(models);
  models = state.models;
  if (JSON.stringify(models) === before) return;
  const select = byId("model"), chosen = select.value;
  select.replaceChildren(...models.map((m) => el("option", { value: m.name }, m.servable ? m.name : `${m.name} (can't be served now)`)));
  const wanted = models.find((m) => m.name === chosen) ?? models.find((m) => m.servable);
  if (wanted) select.value = wanted.name;
  about();
}

function about() {
  const model = models.find((m) => m.name === byId("model").value);
  const lacks = model && !model.servable;
  byId("unservable").hidden = !lacks;
  if (lacks) byId("unservable").textContent = model.missing.length ? `${model.name} can't be served now: no live node holds ${model.missing.map(layersOf).join(", ")}. The Swarm page shows the command that adds them.` : `${model.name}: ${model.problem}.`;
}

const number = (id) => byId(id).value === "" ? undefined : Number(byId(id).value);

async function ask() {
  const text = byId("text").value.trim();
  if (!text || running) return;
  if (!byId("ask").reportValidity()) return;
  byId("text").value = "";
  conversation.push({ role: "user", content: text });
  add(el("div", { class: "message user" }, text));
  const shown = new Shown();
  running = new AbortController();
  busy(true);
  const began = performance.now();
  const system = byId("system").value.trim();
  const body = {
    model: byId("model").value, stream: true, stream_options: { include_usage: true }, swarm: { route: true },
    messages: [...(system ? [{ role: "system", content: system }] : []), ...conversation],
    temperature: number("temperature"), max_completion_tokens: number("max-tokens"), seed: number("seed"),
  };
  try {
    const answer = await call("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal: running.signal });
    if (!answer.ok) throw new Error((await answer.json()).error?.message ?? `The server answered ${answer.status}.`);
    for await (const event of events(answer)) {
      if (event.data === "[DONE]") break;
      const chunk = JSON.parse(event.data);
      if (chunk.error) throw new Error(chunk.error.message);
      shown.take(chunk, performance.now() - began);
    }
    shown.end("");
  } catch (error) {
    if (error.name === "AbortError") shown.end("stopped");
    else shown.fail(error.message);
  } finally {
    // What was said counts for the next turn, also when it was stopped.
    if (shown.text) conversation.push({ role: "assistant", content: shown.text });
    else conversation.pop();
    byId("spoken").textContent = shown.text.slice(0, 2000);
    running = null;
    busy(false);
    byId("text").focus();
  }
}

function busy(yes) {
  byId("send").hidden = yes;
  byId("stop").hidden = !yes;
  byId("messages").setAttribute("aria-busy", String(yes));
}

function add(element) {
  byId("messages").append(element);
  element.scrollIntoView({ block: "end" });
}

/** One answer on the page. It is drawn once a frame, however fast tokens come. */
class Shown {
  constructor() {
    this.text = "";
    this.reasoning = "";
    this.finish = null;
    this.usage = null;
    this.first = null;
    this.last = null;
    this.content = el("div", { class: "content" }, el("p", { class: "quiet" }, "…"));
    this.thought = el("div");
    this.thoughts = el("details", { class: "reasoning", hidden: true }, el("summary", null, "Reasoning"), this.thought);
    this.about = el("div", { class: "about", hidden: true });
    this.element = el("article", { class: "message assistant", "aria-label": "Answer" }, this.thoughts, this.content, this.about);
    this.due = 0;
    add(this.element);
  }

  take(chunk, at) {
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices[0];
    if (!choice) return;
    const { content, reasoning_content: reasoning } = choice.delta;
    if (content || reasoning) { this.first ??= at; this.last = at; }
    this.text += content ?? "";
    this.reasoning += reasoning ?? "";
    this.finish = choice.finish_reason ?? this.finish;
    this.due ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.due);
    this.due = 0;
    const log = byId("messages");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    if (this.reasoning) { this.thoughts.hidden = false; this.thought.textContent = this.reasoning.trim(); }
    if (this.text) this.content.replaceChildren(...markdown(this.text));
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  end(note) {
    this.draw();
    if (!this.text) this.content.replaceChildren(el("p", { class: "quiet" }, note ? "Stopped before the first word." : "The model said nothing."));
    const said = [];
    const tokens = this.usage?.completion_tokens;
    if (tokens) said.push(plural(tokens, "token"));
    if (this.usage?.prompt_tokens_details?.cached_tokens) said.push(`${this.usage.prompt_tokens_details.cached_tokens} of ${this.usage.prompt_tokens} prompt tokens known already`);
    if (this.first !== null) said.push(`first word after ${(this.first / 1000).toFixed(2)} s`);
    if (tokens > 1 && this.last > this.first) said.push(`${((tokens - 1) * 1000 / (this.last - this.first)).toFixed(1)} tokens/s`);
    if (this.finish === "length") said.push("cut at the token limit");
    if (note) said.push(note);
    this.about.hidden = false;
    const hops = this.usage?.swarm?.route ?? [];
    this.about.replaceChildren(said.join(" · "), el("ol", { class: "hops", "aria-label": "Route" }, ...hops.map((hop) => el("li", null, `${hop.name || hop.node.slice(0, 8)} ${hop.layers} · ${Math.round(hop.compute_ms)} ms${hop.queue_ms >= 1 ? ` + ${Math.round(hop.queue_ms)} ms waiting` : ""}`))));
    const log = byId("messages");
    log.scrollTop = log.scrollHeight;
  }

  fail(message) {
    this.draw();
    if (!this.text) this.content.replaceChildren();
    this.element.append(el("p", { class: "problem", role: "alert" }, message));
    byId("messages").scrollTop = byId("messages").scrollHeight;
  }
}
