"""What ``swarm top`` shows of a node's state: rows, lines and words with a tone. Pure: knows no widgets and no colours.

The state is what the control socket answers to ``state``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from swarm.cli.console import printable

Tone = Literal["", "good", "bad", "hole", "busy", "own", "dim", "strong"]
State = Mapping[str, Any]

WIDE = 110
"""Columns from which a table has room for what is nice to know."""
RATE_SECONDS = 3.0
"""Tokens a second are taken over so long."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Some words. Names come from other machines, so nothing in ``text`` steers a terminal."""

    text: str
    tone: Tone = ""


Line = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    cells: Line


@dataclass(frozen=True, slots=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def cell(value: object, tone: Tone = "") -> Cell:
    return Cell(printable(str(value)), tone)


def title(state: State) -> Line:
    """Who this node is, in one line."""
    own = next((m for m in state["members"] if m["node"] == state["node"]), None)
    alive = sum(m["health"] == "alive" for m in state["members"])
    memory = state["memory"]
    used = sum(memory[part] for part in ("weights_bytes", "ends_bytes", "overhead_bytes"))
    door = state["door"]["listen"]
    return (
        cell(own["name"] if own else "this node", "strong"),
        cell(f" {state['node'][:8]}", "dim"),
        cell(
            f"  {own['state'] if own else 'joining'}", "good" if own and own["state"] == "ready" else "busy"
        ),
        cell(f"  {alive} {'member' if alive == 1 else 'members'}"),
        cell(f"  {_mib(used)} of {_mib(memory['total_bytes'])} MiB"),
        cell(f"  API {door or 'closed'}", "" if door else "dim"),
    )


# --- network ------------------------------------------------------------------------------------------------


def network(state: State, width: int) -> Table:
    """The members: this node first, then by name."""
    wide = width >= WIDE
    columns = ("node", "name", "state", "RTT ms", "layers", "sessions", "rows/s", "RSS MiB")
    more = ("protocol", "front door", "labels") if wide else ()
    rows = [
        Row(member["node"], _member(member, state["node"], wide))
        for member in sorted(
            state["members"], key=lambda m: (m["node"] != state["node"], m["name"], m["node"])
        )
    ]
    return Table((*columns, *more), tuple(rows))


def _member(member: Mapping[str, Any], own: str, wide: bool) -> Line:
    load = member.get("load") or {}
    is_own = member["node"] == own
    rtt = member.get("rtt_ms")
    held = ", ".join(f"{span['layers']}/{span['of']}" for span in member["spans"])
    shown = (
        cell(member["node"][:8] + ("*" if is_own else ""), "own" if is_own else ""),
        cell(member["name"]),
        _condition(member),
        cell("" if rtt is None else f"{rtt:.1f}"),
        cell(held or "none", "" if held else "dim"),
        cell(load.get("sessions", "")),
        cell(f"{load['rows_per_second']:.0f}" if load else "", "busy" if load.get("rows_per_second") else ""),
        cell(_mib(load["rss_bytes"]) if load else ""),
    )
    if not wide:
        return shown
    low, high = member.get("protocol") or ("?", "?")
    port = member.get("api_port")
    return (
        *shown,
        cell(low if low == high else f"{low}-{high}"),
        cell(f"port {port}" if port else "", ""),
        cell(", ".join(member.get("labels", ()))),
    )


def _condition(member: Mapping[str, Any]) -> Cell:
    if member["health"] != "alive":
        return cell(member["health"], "bad" if member["health"] == "dead" else "busy")
    if member["routable"]:
        return cell(member["state"], "good")
    return cell(f"{member['state']}, not used", "busy")


def member_details(state: State, node: str) -> list[Line]:
    """What a table has no room for, of one member: addresses, version, memory and links."""
    member = next((one for one in state["members"] if one["node"] == node), None)
    if member is None:
        return []
    names = {one["node"][:8]: one["name"] for one in state["members"]}
    low, high = member.get("protocol") or ("?", "?")
    memory = member.get("memory_bytes") or 0
    protocol = low if low == high else f"{low} to {high}"
    about = [f"protocol {protocol}", f"may use {_mib(memory)} MiB" if memory else ""]
    if member["node"] == state["node"] and state.get("version"):
        about.insert(0, f"swarm {state['version']}")
    lines: list[Line] = [
        (cell(member["name"], "strong"), cell(f"  {member['node']}", "dim")),
        (cell("at        ", "dim"), cell(", ".join(member.get("addresses", ())) or "no address")),
        (cell("runs      ", "dim"), cell(", ".join(one for one in about if one))),
    ]
    for span in (member.get("load") or {}).get("spans", ()):
        took, free = span["microseconds_per_layer"] / 1e3, span["free_kv_tokens"]
        spoken = f"{span['layers']}: {took:.2f} ms a layer and token, KV for {free} more tokens"
        lines.append((cell("layers    ", "dim"), cell(spoken)))
    lines += [
        (cell("means to  ", "dim"), cell(f"hold {one['layers']} of {one['model']}", "busy"))
        for one in member.get("intended", ())
    ]
    links = member.get("links", ())
    for number, link in enumerate(links):
        other = names.get(link["node_prefix"], link["node_prefix"])
        lost = link["unreachable"]
        text = f"{other}  {'unreachable' if lost else format(link['rtt_ms'], '.1f') + ' ms'}"
        lines.append(
            (cell("links to  " if number == 0 else "          ", "dim"), cell(text, "bad" if lost else ""))
        )
    return lines


# --- models and spans ---------------------------------------------------------------------------------------


def model_key(name: str, digest: str) -> str:
    """Return the name by which a node knows one model among all: ``NAME@DIGEST``."""
    return f"{name.partition('@')[0]}@{digest[:12]}"


def models(state: State) -> Table:
    """The models that are served or held here."""
    holding = {one["digest"]: one for one in state["holding"]}
    rows = []
    for model in state["models"]:
        held = holding.pop(model["digest"], None)
        rows.append(Row(model_key(model["name"], model["digest"]), (*_served(model), *_here(held))))
    for held in holding.values():
        coming = (cell(held["model"]), cell("not served yet", "busy"))
        rows.append(Row(model_key(held["model"], held["digest"]), (*coming, *_here(held))))
    return Table(("model", "served", "held here", "told", "doing"), tuple(rows))


def _served(model: Mapping[str, Any]) -> Line:
    if model["servable"]:
        verdict = cell(f"all {model['layers']} layers", "good")
    else:
        verdict = cell(model["problem"] or f"lacks {', '.join(model['missing'])}", "bad")
    return (cell(model["name"]), verdict)


def _here(held: Mapping[str, Any] | None) -> Line:
    if held is None:
        return (cell("none", "dim"), cell("", ""), cell(""))
    return (cell(", ".join(held["layers"]) or "none"), cell(held["told"]), cell(held["doing"], "busy"))


# --- jobs ---------------------------------------------------------------------------------------------------


class Rates:
    """Tokens a second of running answers, over the last few looks at them."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[tuple[float, int]]] = {}

    def observe(self, state: State, now: float) -> None:
        sessions = {one["number"]: one["completion_tokens"] for one in state["sessions"]}
        self._seen = {number: self._seen.get(number, deque()) for number in sessions}
        for number, tokens in sessions.items():
            seen = self._seen[number]
            if seen and tokens < seen[-1][1]:
                seen.clear()  # another process counts anew
            seen.append((now, tokens))
            while len(seen) > 2 and now - seen[1][0] >= RATE_SECONDS:
                seen.popleft()

    def per_second(self, number: int) -> float | None:
        """Return the rate; None before there have been two looks."""
        seen = self._seen.get(number)
        if seen is None or len(seen) < 2:
            return None
        (before, few), (now, many) = seen[0], seen[-1]
        return (many - few) / (now - before) if now > before else None


def jobs(state: State, rates: Rates) -> Table:
    """The answers of this node's front door, the oldest first."""
    rows = []
    for one in sorted(state["sessions"], key=lambda session: session["number"]):
        rate = rates.per_second(one["number"])
        mended = one["recoveries"] + one["moves"]
        rows.append(
            Row(
                str(one["number"]),
                (
                    cell(one["number"]),
                    cell(one["completion_tokens"]),
                    cell("" if rate is None else f"{rate:.1f}", "bad" if rate == 0 else "good"),
                    cell(_age(one["age_seconds"])),
                    cell(mended or "", "busy"),
                    cell(route(one["route"])),
                    cell(one["prompt_tokens"]),
                    cell(one["model"]),
                ),
            )
        )
    return Table(("job", "tokens", "tok/s", "age", "moved", "route", "prompt", "model"), tuple(rows))


def job_lines(state: State) -> list[Line]:
    """What else this node computes."""
    engine = state["engine"]
    own, passing = len(state["sessions"]), engine["hop_sessions"]
    used, budget = _mib(engine["kv_used_bytes"]), _mib(engine["kv_budget_bytes"])
    return [
        (
            cell(f"{own} {'answer' if own == 1 else 'answers'} of this front door, "),
            cell(f"{passing} {'session' if passing == 1 else 'sessions'} through this node's layers, "),
            cell(f"KV {used} of {budget} MiB"),
        )
    ]


def route(hops: Iterable[Mapping[str, Any]]) -> str:
    return (
        " → ".join(f"{hop['name'] or hop['node'][:8]} {hop['layers']}" for hop in hops)
        or "looking for a path"
    )


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


# --- server -------------------------------------------------------------------------------------------------


def server(state: State) -> list[Line]:
    """Where the front door is."""
    door = state["door"]
    if not door["listen"]:
        return [(cell("The front door is closed. ", "busy"), cell("Press o to open it."))]
    url = f"http://{door['listen']}"
    lines: list[Line] = [
        (cell("open       ", "good"), cell(url, "strong"), cell("  a page and a chat for browsers", "dim")),
        (cell("API        ", "dim"), cell(f"{url}/v1"), cell("  OpenAI-compatible", "dim")),
    ]
    if door["problem"]:
        lines.append((cell(door["problem"], "bad"),))
    elif not door["keys"]:
        lines.append(
            (cell("API keys   ", "dim"), cell("none: every key is accepted, from this machine only"))
        )
    return lines


def keys(state: State) -> Table:
    """The API keys by their ids; a key itself is never shown."""
    rows = [Row(key["id"], (cell(key["id"]), cell(key["name"]))) for key in state["door"]["keys"]]
    return Table(("API key", "name"), tuple(rows))


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f}"
