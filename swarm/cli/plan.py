"""``swarm plan``: what machines hold of a model and how fast they answer; described ones, or a running swarm's."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from swarm.cli.console import printable, progress, table_console, working
from swarm.cli.door import Api, ApiKeyFile, viewpoint
from swarm.config import MIB
from swarm.errors import ConfigError, ModelError, UnknownModelError
from swarm.types import DTYPES, QUANTIZATIONS

if TYPE_CHECKING:
    from swarm.models.store import LocalModel
    from swarm.routing.plan import Described, Plan, Running

_NODE = re.compile(r"(?:([A-Za-z][\w.-]*)=)?([\d.]+\s*[A-Za-z]+)(?:@([\d.]+))?")


def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model on this disk, by id or folder.")],
    nodes: Annotated[
        str,
        typer.Option(
            "--nodes",
            metavar="8GiB,NAME=16GiB@0.5,…",
            help="Machines by their --memory; @ says how fast one is beside this one. The first opens the door. "
            "Without it: the running swarm that --api reaches.",
        ),
    ] = "",
    dtype: Annotated[
        str,
        typer.Option("--dtype", metavar="DTYPE", help="What is computed in; default: as join would here."),
    ] = "auto",
    quantize: Annotated[
        str, typer.Option("--quantize", metavar="BITS", help="none, int8 or int4: how layers are held.")
    ] = "none",
    rtt_milliseconds: Annotated[
        float, typer.Option("--rtt", metavar="MS", help="Round trip between described machines.")
    ] = 1.0,
    prompt_tokens: Annotated[
        int,
        typer.Option("--prompt-tokens", metavar="N", help="Length of the prompt for the first token's time."),
    ] = 256,
    api: Api = "",
    api_key_file: ApiKeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show what each machine holds, the speed to expect, the bottleneck, and what would help most.

    Examples: `swarm plan Qwen/Qwen3-0.6B --nodes 8GiB,16GiB@0.5`, `swarm plan Qwen/Qwen3-0.6B`
    """
    with working("Looking for the model …"):
        from swarm.models.store import ModelStore
    local = ModelStore().find(model, progress())
    if nodes:
        if local is None:
            raise ModelError(f"{model} is not on this disk; its sizes are needed: obtain it first")
        with working("Measuring this machine …"):
            found = _described(local, nodes, (dtype, quantize), rtt_milliseconds / 1e3)
    else:
        found = _running(local, model, viewpoint(api, api_key_file)())
    if as_json:
        typer.echo(json.dumps(as_values(found, prompt_tokens), indent=2))
    else:
        table_console().print(_shown(found, prompt_tokens))


def parse_nodes(text: str) -> list[tuple[str, int, float]]:
    """Read ``8GiB,NAME=16GiB@0.5`` into (name, bytes, speed). Raises ConfigError."""
    from swarm.config.values import read_bytes

    found = []
    for number, part in enumerate(text.split(",")):
        match = _NODE.fullmatch(part.strip())
        try:
            if match is None:
                raise ValueError(f"{part.strip()!r} is not MEMORY, MEMORY@SPEED or NAME=MEMORY@SPEED")
            speed = float(match[3] or 1.0)
            if speed <= 0:
                raise ValueError(f"{part.strip()!r}: a speed is above zero")
            found.append((match[1] or f"node{number}", read_bytes(match[2]), speed))
        except ValueError as exc:
            raise ConfigError(f"--nodes: {exc}; for example 8GiB,16GiB@0.5") from None
    return found


def _described(local: LocalModel, nodes: str, held: tuple[str, str], rtt_seconds: float) -> Plan:
    """Plan for machines that compute in the first and hold layers in the second of ``held``."""
    from swarm.engine.device import compute_dtype, resolve_device
    from swarm.engine.kernels import measured_seconds_per_byte
    from swarm.models.footprint import footprint_of
    from swarm.models.memory import Memory
    from swarm.routing.plan import Described, plan

    machines = parse_nodes(nodes)
    device = resolve_device("auto")
    dtype, quantize = held
    for given, allowed, option in (
        (dtype, ("auto", *DTYPES), "dtype"),
        (quantize, QUANTIZATIONS, "quantize"),
    ):
        if given not in allowed:
            raise ConfigError(f"--{option}: {given!r} is none of {', '.join(allowed)}")
    chosen = compute_dtype(dtype, local.spec.dtype, device)
    sizes = footprint_of(local.spec, local.manifest, chosen, quantize)
    here = measured_seconds_per_byte(chosen, device)
    described: list[Described] = [
        Described(name, Memory(memory, door=number == 0), here / speed)
        for number, (name, memory, speed) in enumerate(machines)
    ]
    return plan(local.id, sizes, described, link_seconds=rtt_seconds / 2)


def _running(local: LocalModel | None, name: str, state: dict[str, Any]) -> Plan:
    from swarm.models.footprint import footprint_of
    from swarm.routing.plan import plan_running

    asked = local.id.name if local is not None else name
    spans = [
        span
        for member in state["members"]
        if member["routable"]
        for span in member["spans"]
        if span["model"] == asked
    ]
    if not spans:
        known = sorted({model["name"] for model in state["models"]})
        if asked in known:
            raise ModelError(
                f"no member holds layers of {asked} yet: `swarm status` shows who is loading; try again then"
            )
        raise UnknownModelError(asked, known)
    running = running_of(state, asked)
    if local is None or local.id != running.model:
        return plan_running(running, None)
    return plan_running(running, footprint_of(local.spec, local.manifest, spans[0]["dtype"]))


def running_of(state: dict[str, Any], name: str) -> Running:
    """Read what /swarm/state says of the model called ``name``, which some member holds."""
    from swarm.routing.plan import Running
    from swarm.routing.view import SpanView, SwarmView
    from swarm.types import BootId, LayerSpan, ModelId, NodeId

    members = [member for member in state["members"] if member["routable"]]
    by_prefix = {member["node"][:8]: NodeId(member["node"]) for member in members}
    own = NodeId(state["node"])
    spans: list[SpanView] = []
    links: dict[tuple[NodeId, NodeId], float] = {}
    doors: dict[NodeId, float] = {}
    layers: dict[ModelId, int] = {}
    for member in members:
        node = NodeId(member["node"])
        load = member.get("load", {})
        speeds = {one["layers"]: one for one in load.get("spans", ())}
        for held in member["spans"]:
            if held["model"] != name:
                continue
            model = ModelId(held["model"], held["digest"])
            layers[model] = held["of"]
            speed = speeds.get(held["layers"], {})
            spans.append(
                SpanView(
                    node,
                    BootId(b"running."),
                    model,
                    LayerSpan.parse(held["layers"]),
                    held["dtype"],
                    speed.get("microseconds_per_layer", 1000.0) / 1e6,
                    load.get("queued_rows", 0),
                    speed.get("free_kv_tokens", 0),
                    seconds_per_row=speed.get("row_microseconds", 0.0) / 1e6,
                )
            )
        if load.get("head_microseconds"):
            doors[node] = load["head_microseconds"] / 1e6
        if member.get("rtt_ms"):
            links[own, node] = links[node, own] = member["rtt_ms"] / 2e3
        for link in member.get("links", ()):
            other = by_prefix.get(link["node_prefix"])
            if other is not None and own not in (other, node) and not link["unreachable"]:
                links[node, other] = link["rtt_ms"] / 2e3
    # Of two models with one name the plan is of the one with more layers held.
    model = max(layers, key=lambda one: sum(len(span.span) for span in spans if span.model == one))
    return Running(
        model,
        SwarmView(tuple(spans), links, layers=layers, doors=doors),
        own,
        {NodeId(member["node"]): member["name"] for member in members},
        {NodeId(member["node"]): member.get("memory_bytes", 0) for member in members},
    )


def as_values(found: Plan, prompt_tokens: int) -> dict[str, Any]:
    """Return the plan as JSON values."""
    prediction = found.prediction
    slowest = prediction.bottleneck if prediction is not None else None
    return {
        "machines": [
            {**asdict(one), "span": None if one.span is None else str(one.span)} for one in found.holdings
        ],
        "missing": [str(span) for span in found.missing],
        "tokens_per_second": round(found.tokens_per_second, 2) if prediction is not None else None,
        "first_token_seconds": round(prediction.first_token_seconds(prompt_tokens), 4)
        if prediction
        else None,
        "prompt_tokens": prompt_tokens,
        "route": [str(stage.span) for stage in prediction.stages] if prediction is not None else [],
        "bottleneck": None
        if slowest is None
        else {
            "layers": str(slowest.span),
            "milliseconds": round((slowest.token_seconds + slowest.link_seconds) * 1e3, 3),
        },
        "helps_most": None if found.helps is None else asdict(found.helps),
    }


def _shown(found: Plan, prompt_tokens: int) -> Group:
    table = Table("machine", "memory", "layers", "weights", "room in KV", "ms a layer")
    for column in table.columns:
        column.overflow = "fold"
    for one in found.holdings:
        cells = (
            one.name,
            f"{one.memory_bytes / MIB:.0f} MiB" if one.memory_bytes else "",
            str(one.span) if one.span is not None else "none",
            f"{one.weights_bytes / MIB:.0f} MiB" if one.weights_bytes else "",
            f"{one.kv_tokens} tokens",
            f"{one.seconds_per_layer * 1e3:.2f}",
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    lines = [f"{one.name} holds nothing: {one.reason}." for one in found.holdings if one.span is None]
    prediction = found.prediction
    if found.missing:
        lacking = ", ".join(span.described() for span in found.missing)
        lines.append(f"These machines can't serve it: nobody holds {lacking}.")
    elif prediction is not None:
        first = prediction.first_token_seconds(prompt_tokens)
        lines.append(
            f"One answer: {found.tokens_per_second:.1f} tokens a second, the first after {first:.2f} s "
            f"(prompt of {prompt_tokens} tokens), over {', '.join(str(s.span) for s in prediction.stages)}."
        )
        slowest = prediction.bottleneck
        if slowest is not None:
            took = (slowest.token_seconds + slowest.link_seconds) * 1e3
            lines.append(f"Bottleneck: {slowest.span.described()} take {took:.1f} ms of a token.")
    if found.helps is not None:
        lines.append(
            f"What would help most: {found.helps.change} ({found.helps.tokens_per_second:.1f} tokens a second)."
        )
    return Group(table, *(Text(printable(line)) for line in lines))
