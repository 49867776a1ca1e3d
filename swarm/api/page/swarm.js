// The page of the swarm: turns each state into pictures, tables and what to do about what is missing.

import { byId, bytes, copied, el, layersOf, plural, show } from "./dom.js";
import { condition, intended, label, layerLine, MOST_NODES, network, tellApart } from "./picture.js";

const MOST_ROWS = 200;

export function render(state) {
  tellApart(state.members);
  const alive = state.members.filter((m) => m.health === "alive");
  const missing = state.models.filter((m) => !m.servable);
  show(byId("problems"), ...missing.map((model) => problem(model, state)));
  show(byId("coming"), ...coming(state));
  const rate = Math.max(0, ...alive.map((m) => m.load?.rows_per_second ?? 0));
  show(byId("totals"),
    total("alive", plural(alive.length, "node")), total("can be served", plural(state.models.length - missing.length, "model")),
    total("under way here", plural(state.sessions.length, "answer")),
    total("memory in use", bytes(alive.reduce((sum, m) => sum + (m.load?.rss_bytes ?? 0), 0))),
    total("tokens/s through the busiest node", Math.round(rate)));
  show(byId("models"), ...(state.models.length ? state.models.map((model) => modelCard(model, state)) : [noModel(state)]));
  show(byId("network"), network(state), more(state));
  show(byId("answers"), ...(state.sessions.length ? state.sessions.map(answer) : [el("li", { class: "quiet" }, "None at the moment.")]));
  show(byId("nodes").tBodies[0], ...[...state.members].sort(byLife).slice(0, MOST_ROWS).map((m) => row(m, state)));
}

const byLife = (a, b) => (a.health === "alive" ? 0 : 1) - (b.health === "alive" ? 0 : 1) || label(a).localeCompare(label(b));
const total = (name, value) => el("div", null, el("dt", null, name), el("dd", null, String(value)));

function more(state) {
  const gone = state.members.filter((m) => m.health === "dead" || m.health === "left").length;
  const parts = [gone ? `${plural(gone, "node")} gone, see the table` : "", state.members.length - gone > MOST_NODES ? `the first ${MOST_NODES} nodes are drawn` : ""].filter(Boolean);
  return parts.length ? el("p", { class: "quiet" }, parts.join("; ")) : "";
}

function modelCard(model, state) {
  const verdict = model.servable ? el("span", { class: "verdict good" }, "can be served") : el("span", { class: "verdict bad" }, "can't be served");
  return el("article", { class: "model" },
    el("h3", null, el("span", null, model.name), verdict,
      el("span", { class: "verdict quiet" }, `${plural(model.layers, "layer")}, weights ${model.digest.slice(0, 12)}`)),
    layerLine(model, state.members.filter((m) => m.health === "alive" || m.health === "suspect"), state.sessions, width()));
}

/** What to do where nothing is served yet. */
export function noModel(state) {
  const loading = intentions(state).length > 0;
  return el("article", { class: "model" }, el("h3", null, "No model yet"),
    el("p", null, loading ? "The first layers are being loaded." : "No node holds a layer. On a machine that has the model, or can get it, run:"),
    loading ? "" : copied(el("code", null, `python -m swarm join --bootstrap ${addressOf(state)} --model ID_OR_FOLDER`)));
}

const addressOf = (state) => state.members.find((m) => m.node === state.node)?.addresses?.[0] ?? "HOST:PORT";

/** What live members are about to hold: [member, {model, layers}]. */
const intentions = (state) => state.members.filter((m) => m.health === "alive").flatMap((m) => intended(m).map((one) => [m, one]));

/** What takes its time: layers that nodes load, and weights that this one fetches. */
function coming(state) {
  const loading = intentions(state).map(([member, one]) => el("li", null, `${label(member)} is loading ${layersOf(one.layers)} of ${one.model}`));
  const fetching = Object.entries(state.weights?.fetching ?? {}).map(([what, { bytes_received: came, bytes_wanted: wanted }]) =>
    el("li", null, `fetching ${what}: ${bytes(came)} of ${bytes(wanted)} `, el("progress", { max: wanted || 1, value: came, "aria-label": `fetching ${what}` })));
  return [...loading, ...fetching];
}

/** Pixels that a picture may take, so that its text keeps the page's size. */
const width = () => Math.max(280, (byId("models").clientWidth || document.documentElement.clientWidth) - 36);

/** What a model lacks, and the command that mends it. */
export function problem(model, state) {
  const commands = model.missing.map((hole) => `python -m swarm join --bootstrap ${addressOf(state)} --model ${model.name} --layers ${hole}`);
  if (!commands.length) return el("div", { class: "problem" }, el("p", null, `${model.name} can't be served here: ${model.problem}.`));
  return el("div", { class: "problem" },
    el("p", null, `${model.name} can't be served: no live node holds ${model.missing.map(layersOf).join(", ")}.`),
    el("p", null, "On a machine of the swarm with room for them, run:"),
    copied(el("code", null, commands.join("\n"))),
    el("p", { class: "hint" }, "A machine that is not in the swarm yet needs an invite: ", el("code", null, "python -m swarm invite"), " on a member prints it."));
}

function answer(session) {
  const hops = session.route.map((hop) => el("li", null, `${hop.name || hop.node.slice(0, 8)} ${hop.layers}`));
  const counted = `${plural(session.completion_tokens, "token")} so far, prompt ${session.prompt_tokens}`;
  return el("li", null, el("strong", null, session.model), ` ${counted}`,
    session.recoveries ? el("span", { class: "warm" }, `, ${plural(session.recoveries, "time")} on a new path`) : "",
    el("ol", { class: "hops" }, ...hops));
}

const memory = (used, allowed) => !used ? "" : allowed ? `${bytes(used)} of ${bytes(allowed)}` : bytes(used);

function row(member, state) {
  const load = member.load ?? {};
  const cell = (value, kind) => el("td", { class: kind }, value === undefined || value === null ? "" : String(value));
  const kv = load.spans?.length ? `${Math.min(...load.spans.map((s) => s.free_kv_tokens)).toLocaleString("en")} tokens` : "";
  const held = member.spans.map((s) => `${s.layers} of ${s.of}${state.models.length > 1 ? ` ${s.model}` : ""} ${s.dtype}`).join(", ");
  return el("tr", null,
    el("th", { scope: "row" }, member.name || label(member), " ", el("span", { class: "quiet" }, member.node.slice(0, 8) + (member.node === state.node ? ", this node" : ""))),
    el("td", { class: member.health === "alive" ? (member.routable ? "good" : "warm") : "bad" }, condition(member)),
    cell(held || "none"), cell(memory(load.rss_bytes, member.memory_bytes), "number"), cell(kv, "number"), cell(load.sessions, "number"),
    cell(load.queued_rows, "number"), cell(load.rows_per_second?.toFixed(1), "number"),
    cell(member.rtt_ms === undefined || member.rtt_ms === null ? "" : `${member.rtt_ms.toFixed(1)} ms`, "number"));
}
