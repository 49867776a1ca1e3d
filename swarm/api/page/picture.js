// The swarm as pictures: each model's layer line with who holds what, and nodes with their links. No state of its own.

import { layersOf, span, svg } from "./dom.js";

const LEFT = 104, ROW = 24, BAR = 16;
const MOST_ROWS = 16;  // of a model that more nodes hold, those that hold the same share a row

export const usable = (member) => member.health === "alive" && member.routable;
export const condition = (member) =>
  member.health !== "alive" ? member.health : member.routable ? member.state : `${member.state}, not used`;
const tone = (member) => member.health === "dead" || member.health === "suspect" ? "bad" : member.state === "draining" || !usable(member) ? "warm" : "";
export const short = (name, most = 14) => name.length > most ? `${name.slice(0, most - 1)}…` : name;
export const label = (member) => member.shown ?? (member.name || member.node.slice(0, 8));

/** Tell those apart who have one name: two nodes of one machine, or two of the same kind. */
export function tellApart(members) {
  const times = new Map();
  for (const { name } of members) times.set(name, (times.get(name) ?? 0) + 1);
  for (const member of members) if (member.name && times.get(member.name) > 1) member.shown = `${short(member.name, 9)} ${member.node.slice(0, 4)}`;
}

/** Spans that a member is about to hold: [{model, layers}]. */
export const intended = (member) => (member.intended ?? []).filter((one) => !member.spans.some((held) => held.model === one.model && held.layers === one.layers));

/** One row for all who hold the same, where a row for each would be too many: [{members, spans, coming}]. */
function gathered(rows) {
  if (rows.length <= MOST_ROWS) return rows.map(({ member, ...row }) => ({ members: [member], ...row }));
  const groups = new Map();
  for (const { member, ...row } of rows) {
    const same = JSON.stringify([usable(member), row.spans.map((s) => s.layers), row.coming.map((s) => s.layers)]);
    groups.get(same)?.members.push(member) ?? groups.set(same, { members: [member], ...row });
  }
  return [...groups.values()];
}

/** Rows of spans over one model's layers, `width` pixels wide; what nobody holds is red; hops of running answers are framed. */
export function layerLine(model, members, sessions, width) {
  const rows = [];
  for (const member of members) {
    const spans = member.spans.filter((held) => held.model === model.name && held.digest === model.digest);
    const coming = intended(member).filter((one) => one.model === model.name);
    if (spans.length || coming.length) rows.push({ member, spans, coming });
  }
  const first = (row) => Math.min(...[...row.spans, ...row.coming].map((held) => span(held.layers)[0]));
  rows.sort((a, b) => first(a) - first(b) || label(a.member).localeCompare(label(b.member)));
  const lines = gathered(rows);
  const holes = model.missing.map(span);
  const x = (layer) => LEFT + (width - LEFT - 10) * layer / model.layers;
  const height = (lines.length + 1) * ROW + (holes.length ? ROW : 0) + 6;
  const running = new Set(sessions.filter((s) => s.model === model.name).flatMap((s) => s.route.map((hop) => `${hop.node} ${hop.layers}`)));
  const parts = [];
  const step = Math.max(1, Math.ceil(model.layers / (width > 480 ? 12 : 5)));
  for (let layer = 0; layer <= model.layers; layer += step) {
    parts.push(svg("line", { class: "axis", x1: x(layer), x2: x(layer), y1: ROW - 6, y2: height }),
      svg("text", { class: "quiet", x: x(layer), y: 12, "text-anchor": "middle" }, layer));
  }
  let y = ROW;
  const bar = (layers, kind, title) => {
    const [from, to] = span(layers);
    return svg("g", null, title ? svg("title", null, title) : "",
      svg("rect", { class: kind, x: x(from) + 1, y, width: Math.max(3, x(to) - x(from) - 2), height: BAR, rx: 3 }));
  };
  for (const { members: held, spans, coming } of lines) {
    const who = held.map(label).join(", "), works = usable(held[0]);
    const name = held.length === 1 ? short(label(held[0])) : `${held.length} nodes`;
    parts.push(svg("text", { x: 0, y: y + 12 }, svg("title", null, who), name));
    for (const { layers } of coming) parts.push(bar(layers, "bar coming", `${who}: loading ${layersOf(layers)}`));
    for (const { layers, of, dtype } of spans) {
      const busy = held.some((member) => member.load?.sessions);
      parts.push(bar(layers, works ? `bar ${busy ? "busy" : ""}` : "bar leaving", `${who}: ${layersOf(layers)} of ${of} in ${dtype}, ${condition(held[0])}`));
      if (held.some((member) => [...running].some((hop) => within(hop, member.node, layers)))) parts.push(bar(layers, "route-bar", ""));
    }
    y += ROW;
  }
  for (const [from, to] of holes) {
    const name = `no node: ${layersOf(`${from}:${to}`)}`;
    const wide = x(to) - x(from) > 130;
    parts.push(svg("g", null, svg("title", null, name),
      svg("rect", { class: "hole", x: x(from) + 1, y, width: Math.max(4, x(to) - x(from) - 2), height: BAR, rx: 3 }),
      wide ? svg("text", { class: "hole-label", x: (x(from) + x(to)) / 2, y: y + 12, "text-anchor": "middle" }, name) : null));
  }
  if (holes.length) parts.push(svg("text", { class: "hole-label", x: 0, y: y + 12 }, "missing"));
  const said = holes.length ? `Nobody holds ${model.missing.map(layersOf).join(", ")}.` : "Every layer is held.";
  const who = rows.map(({ member, spans, coming }) => `${label(member)}: ${[...spans.map((s) => layersOf(s.layers)), ...coming.map((c) => `loading ${layersOf(c.layers)}`)].join(", ")}`).join("; ");
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Layers of ${model.name}. ${said} ${who}` }, ...parts);
}

function within(routeKey, node, layers) {
  const [other, part] = routeKey.split(" ");
  const [a, b] = span(part), [from, to] = span(layers);
  return other === node && a >= from && b <= to;
}

export const MOST_NODES = 32;
const ROOMY = 12;  // so many labels of two lines fit around a circle; more are written along its rays

/** Nodes on a circle, links with round-trip times, the routes of running answers on top. */
export function network(state) {
  const members = state.members.filter((m) => m.health !== "dead" && m.health !== "left").slice(0, MOST_NODES);
  const roomy = members.length <= ROOMY;
  const radius = members.length > 1 ? (roomy ? 110 : 150) : 0;
  const places = new Map(members.map((member, index) => {
    const angle = 2 * Math.PI * index / members.length + (members.length === 2 ? Math.PI : -Math.PI / 2);  // two lie side by side
    return [member.node, { x: radius * Math.cos(angle), y: radius * Math.sin(angle), angle }];
  }));
  const { lines, words } = links(state, members, places);
  const parts = [...lines, ...routes(state, places), ...words];
  for (const member of members) {
    const place = places.get(member.node);
    const classes = ["node", member.node === state.node ? "own" : "", tone(member), member.spans.length ? "" : "empty"].join(" ").trim();
    parts.push(svg("g", { class: classes },
      svg("title", null, `${label(member)} (${member.node}): ${condition(member)}`),
      svg("circle", { cx: place.x, cy: place.y, r: roomy ? 11 : 8 }),
      ...(roomy ? beside(member, place) : along(member, place))));
  }
  const ys = [...places.values()].map((place) => place.y), room = roomy ? 50 : 135;
  const side = Math.max(radius, 110) + (roomy ? 140 : 135), top = Math.min(...ys) - room;
  const said = `${members.length} nodes: ${members.map((m) => `${label(m)} ${condition(m)}`).join(", ")}`;
  return svg("svg", { viewBox: `${-side} ${top} ${2 * side} ${Math.max(...ys) + room - top}`, role: "img", "aria-label": said }, ...parts);
}

/** A name and layers on the side of a node that no link comes from. */
function beside(member, { x, y, angle }) {
  const across = Math.abs(Math.cos(angle)) > 0.4 && x !== 0;
  const anchor = !across ? "middle" : x > 0 ? "start" : "end";
  const at = across ? x + Math.sign(x) * 19 : x;
  const top = across ? y - 1 : y < 0 ? y - 33 : y + 28;
  return [svg("text", { x: at, y: top, "text-anchor": anchor }, short(label(member))),
    svg("text", { class: "quiet", x: at, y: top + 15, "text-anchor": anchor }, short(member.spans.map((s) => s.layers).join(" ") || "no layers", 16))];
}

/** A name that leads away from the circle. */
function along(member, { x, y, angle }) {
  const left = Math.cos(angle) < -1e-9;
  const turned = angle * 180 / Math.PI + (left ? 180 : 0);
  return [svg("text", { x: left ? -14 : 14, y: 4, "text-anchor": left ? "end" : "start", transform: `translate(${x} ${y}) rotate(${turned})` }, short(label(member)))];
}

function links(state, members, places) {
  const known = new Map();
  const link = (a, b, rtt, broken) => {
    if (a === b || !places.has(a) || !places.has(b)) return;
    const name = a < b ? `${a} ${b}` : `${b} ${a}`;
    const before = known.get(name);
    const gone = members.some((m) => (m.node === a || m.node === b) && m.health !== "alive");
    known.set(name, { a, b, rtt: rtt ?? before?.rtt, broken: broken || gone || before?.broken });
  };
  for (const member of members) {
    if (member.rtt_ms !== null && member.rtt_ms !== undefined) link(state.node, member.node, member.rtt_ms, false);
    for (const other of member.links ?? []) {
      const found = members.find((m) => m.node.startsWith(other.node_prefix));
      if (found) link(member.node, found.node, other.rtt_ms, other.unreachable);
    }
  }
  const lines = [], words = [];
  for (const { a, b, rtt, broken } of known.values()) {
    const from = places.get(a), to = places.get(b);
    lines.push(svg("line", { class: broken ? "link broken" : "link", x1: from.x, y1: from.y, x2: to.x, y2: to.y }));
    if (known.size <= 28 && (broken || rtt !== undefined)) {
      // Off the middle, or the labels of all diameters would lie on each other; away from the node that has the most of them.
      const at = a === state.node ? 0.66 : b === state.node ? 0.34 : 0.38;
      words.push(svg("text", { class: "quiet rtt", x: from.x + (to.x - from.x) * at, y: from.y + (to.y - from.y) * at + 4, "text-anchor": "middle" }, broken ? "cut" : `${rtt.toFixed(rtt < 10 ? 1 : 0)} ms`));
    }
  }
  return { lines, words };
}

function routes(state, places) {
  const parts = [];
  for (const session of state.sessions) {
    const stops = [state.node, ...session.route.map((hop) => hop.node), state.node].filter((node) => places.has(node));
    for (let i = 1; i < stops.length; i++) {
      if (stops[i] === stops[i - 1]) continue;
      const from = places.get(stops[i - 1]), to = places.get(stops[i]);
      // Bent to one side, so that the way there and the way back are two lines.
      const bend = { x: (from.x + to.x) / 2 + (to.y - from.y) * 0.15, y: (from.y + to.y) / 2 - (to.x - from.x) * 0.15 };
      parts.push(svg("path", { class: "route-segment", d: `M${from.x} ${from.y} Q${bend.x} ${bend.y} ${to.x} ${to.y}` }));
    }
  }
  return parts;
}
