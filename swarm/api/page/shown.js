// One answer on the page: its text as it comes, and under it what it took and which nodes computed it.

import { byId, copied, el, plural } from "./dom.js";
import { markdown } from "./markdown.js";

/** It is drawn once a frame, however fast tokens come. */
export class Shown {
  /** `state` is the swarm's, for the names of nodes. */
  constructor(state) {
    this.text = "";
    this.reasoning = "";
    this.finish = null;
    this.usage = null;
    this.first = null;
    this.last = null;
    this.began = 0;
    this.hops = [];
    this.names = new Map((state?.members ?? []).map((m) => [m.node.slice(0, 8), m.name]));
    this.content = el("div", { class: "content" }, el("p", { class: "quiet" }, "…"));
    this.thought = el("div");
    this.thoughts = el("details", { class: "reasoning", hidden: true }, el("summary", null, "Reasoning"), this.thought);
    this.about = el("div", { class: "about", hidden: true });
    this.element = el("article", { class: "message assistant", "aria-label": "Answer" }, this.thoughts, this.content, this.about);
    this.due = 0;
  }

  /** From here its times are counted. */
  asked() {
    this.began = performance.now();
  }

  /** Say what keeps it from beginning. */
  wait(reason) {
    this.content.replaceChildren(el("p", { class: "quiet", role: "status" }, reason));
  }

  /** It has a path: `NODE=A:B, NODE=B:C; what else`, as the header x-swarm-route says it. */
  goes(route) {
    const hops = route.split(";")[0].split(",").map((hop) => hop.trim().split("="));
    this.hops = hops.filter(([, layers]) => layers).map(([node, layers]) => ({ node, name: this.names.get(node), layers }));
  }

  take(chunk) {
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices[0];
    if (!choice) return;
    const { content, reasoning_content: reasoning } = choice.delta;
    if (content || reasoning) { this.last = performance.now() - this.began; this.first ??= this.last; }
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
    this.tell(note);
  }

  fail(message) {
    this.draw();
    if (!this.text) this.content.replaceChildren();
    this.element.insertBefore(el("p", { class: "problem", role: "alert" }, message), this.about);
    this.tell("broken off", Boolean(this.text));
  }

  /** Write what it took under it, and whose work it was. */
  tell(note, anything = true) {
    for (const code of this.content.querySelectorAll("pre > code")) { const block = code.parentElement; block.replaceWith(copied(code)); }
    const said = [];
    const tokens = this.usage?.completion_tokens;
    if (tokens) said.push(plural(tokens, "token"));
    if (this.usage?.prompt_tokens_details?.cached_tokens) said.push(`${this.usage.prompt_tokens_details.cached_tokens} of ${this.usage.prompt_tokens} prompt tokens known already`);
    if (this.first !== null) said.push(`first word after ${(this.first / 1000).toFixed(2)} s`);
    if (tokens > 1 && this.last > this.first) said.push(`${((tokens - 1) * 1000 / (this.last - this.first)).toFixed(1)} tokens/s`);
    if (this.finish === "length") said.push("cut at the token limit");
    if (note) said.push(note);
    const hops = (this.usage?.swarm?.route ?? this.hops).map(hop);
    this.about.hidden = !anything;
    this.about.replaceChildren(said.join(" · "), hops.length ? el("ol", { class: "hops", "aria-label": "Route" }, ...hops) : "");
    const log = byId("messages");
    log.scrollTop = log.scrollHeight;
  }
}

/** One hop; its times are known once the answer is whole. */
function hop({ name, node, layers, compute_ms: computed, queue_ms: queued }) {
  const times = computed === undefined ? "" : ` · ${Math.round(computed)} ms${queued >= 1 ? ` + ${Math.round(queued)} ms waiting` : ""}`;
  return el("li", null, `${name || node.slice(0, 8)} ${layers}${times}`);
}
