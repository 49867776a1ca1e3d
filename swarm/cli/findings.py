"""What ``swarm doctor`` finds in a state of the swarm, and how a report is made safe to paste. Asks nobody."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Level = Literal["ok", "warn", "fail"]
SILENT_STATES = ("dead", "left")
FULL_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Finding:
    about: str
    level: Level
    text: str
    remedy: str = ""
    """What to do next; empty when nothing is wrong."""


def of_state(state: dict[str, Any]) -> list[Finding]:
    """Judge /swarm/state with details: models, members, links, room."""
    return [*_models(state), *_members(state), *_links(state), *_room(state)]


def _models(state: dict[str, Any]) -> list[Finding]:
    own = next((m for m in state["members"] if m["node"] == state["node"]), None)
    address = (own or {}).get("addresses", ["HOST:PORT"])[0]
    found = []
    for model in state["models"]:
        name = model["name"]
        if model["servable"]:
            found.append(Finding("model", "ok", f"{name} can be served ({model['layers']} layers)"))
        elif model["missing"]:
            commands = "; ".join(
                f"python -m swarm join --bootstrap {address} --model {name} --layers {hole}"
                for hole in model["missing"]
            )
            lost = _last_holders(state, name)
            found.append(
                Finding(
                    "model",
                    "fail",
                    f"{name} can't be served: no live node holds layers {', '.join(model['missing'])}"
                    + (f" (last held by {lost})" if lost else ""),
                    f"start a node that holds them: {commands}",
                )
            )
        else:
            found.append(
                Finding(
                    "model",
                    "fail",
                    f"{name} can't be served here: {model['problem']}",
                    f"obtain it on this machine (--model {name}), or ask another node's front door",
                )
            )
    if not found:
        found.append(
            Finding("model", "fail", "the swarm serves no model", "start a node with --model ID_OR_FOLDER")
        )
    return found


def _last_holders(state: dict[str, Any], name: str) -> str:
    return ", ".join(
        f"{_called(member)}, {member['health']}"
        for member in state["members"]
        if member["health"] != "alive" and any(span["model"] == name for span in member["spans"])
    )


def _members(state: dict[str, Any]) -> list[Finding]:
    found = []
    alive = [member for member in state["members"] if member["health"] == "alive"]
    found.append(Finding("members", "ok", f"{len(alive)} of {len(state['members'])} known nodes are alive"))
    for member in state["members"]:
        if member["health"] == "suspect":
            found.append(
                Finding(
                    "members",
                    "warn",
                    f"{_called(member)} does not answer; it will be dead in a few seconds unless it does",
                    "look whether its process runs, and whether its machine sleeps or lost the network",
                )
            )
        elif member["health"] == "alive" and not member["routable"] and member["state"] == "ready":
            found.append(
                Finding(
                    "members",
                    "warn",
                    f"{_called(member)} is alive but gets no new sessions: its load record stands still, or it was "
                    "heard telling two stories",
                    "restart it; if that does not help, see its log",
                )
            )
    return found


def _links(state: dict[str, Any]) -> list[Finding]:
    names = {member["node"][:8]: _called(member) for member in state["members"]}
    alive = {member["node"][:8] for member in state["members"] if member["health"] == "alive"}
    cut = {
        tuple(sorted((member["node"][:8], link["node_prefix"])))
        for member in state["members"]
        for link in member.get("links", ())
        if link["unreachable"] and {member["node"][:8], link["node_prefix"]} <= alive
    }
    return [
        Finding(
            "links",
            "warn",
            f"{names[a]} and {names[b]} are both alive but can't reach each other; paths go around that link",
            "check firewalls between the two, and that each advertises an address the other can dial (--advertise)",
        )
        for a, b in sorted(cut)
    ]


def _room(state: dict[str, Any]) -> list[Finding]:
    engine = state.get("engine", {})
    budget, used = engine.get("kv_budget_bytes", 0), engine.get("kv_used_bytes", 0)
    kept = engine.get("kv_kept_bytes", 0)
    if budget and (used - kept) > FULL_SHARE * budget:
        return [
            Finding(
                "room",
                "warn",
                f"the KV cache of this node is full ({used / 2**20:.0f} of {budget / 2**20:.0f} MiB): new answers wait",
                "raise engine.kv_bytes, add a node that holds the same layers, or lower max_tokens",
            )
        ]
    return []


def _called(member: dict[str, Any]) -> str:
    return f"{member['name'] or 'a node'} ({member['node'][:8]})"


_ADDRESS = re.compile(
    r"\[[0-9a-fA-F:.]{3,45}\]|\d{1,3}(?:\.\d{1,3}){3}|(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{1,4}(?![\w:])"
)


def redacted(lines: Iterable[str], secrets: Iterable[tuple[str, str]]) -> list[str]:
    """Replace what names machines and people: ``secrets`` as (kind, text), and every address.

    Equal texts get equal names ("node-1"), so that the report still makes sense.
    """
    named: dict[str, str] = {}
    counts: dict[str, int] = {}

    def name_of(kind: str, text: str) -> str:
        if text not in named:
            counts[kind] = counts.get(kind, 0) + 1
            named[text] = f"{kind}-{counts[kind]}"
        return named[text]

    # The longest first: a name may be a part of another.
    known = sorted(
        {(kind, text) for kind, text in secrets if len(text) > 1}, key=lambda each: (-len(each[1]), each)
    )
    safe = []
    for original in lines:
        line = original
        for kind, text in known:
            line = re.sub(rf"(?<![\w.-]){re.escape(text)}(?![\w-])", name_of(kind, text), line)
        safe.append(_ADDRESS.sub(lambda match: name_of("address", match[0]), line))
    return safe
