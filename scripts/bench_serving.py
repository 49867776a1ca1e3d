#!/usr/bin/env python3
"""Serving speed: swarms of 1, 2 and 3 nodes against each other and against transformers' generate, in one run.

Starts its own swarms on loopback with the default model, drives them through the OpenAI API and prints ratios
(min / median / max over the repeats) and a table; ``--json FILE`` keeps everything.
``--peer language-pipes`` and ``--peer llama.cpp`` drive these too, when they are installed (see _peers.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _peers import PEERS, PeerError, Wanted, running
from swarm.cli import load
from swarm.cli.load import CHAT_OVERHEAD, percentile
from swarm.cli.streams import StreamResult
from tests.support.swarm_process import MODEL, SwarmProcesses, swarm_of, wait_for

SPLITS = {1: ["0:30"], 2: ["0:11", "11:30"], 3: ["0:5", "5:17", "17:30"]}
"""The first node has the door and the head, which costs about as much as 7 layers."""


@dataclass
class Cell:
    """One measured combination."""

    nodes: int
    streams: int
    prompt_tokens: int
    tokens: list[float] = field(default_factory=list)
    """Of an answer, the median: rivals without ``ignore_eos`` may stop early."""
    total_rate: list[float] = field(default_factory=list)
    """The streams' own rates added up: (tokens - 1) / (last - first content event) each."""
    wall_rate: list[float] = field(default_factory=list)
    """All tokens over the time from the first of all to the last: staggered prompts count as time here."""
    ttft: list[float] = field(default_factory=list)
    gap_p50: list[float] = field(default_factory=list)
    gap_p99: list[float] = field(default_factory=list)


async def drive(
    url: str, streams: int, prompt_tokens: int, tokens: int, salt: int
) -> tuple[list[StreamResult], float]:
    """Run ``streams`` answers at once; return them and the tokens a second of all together."""
    driven = await load.drive(
        url, MODEL, streams=streams, prompt_tokens=prompt_tokens, tokens=tokens, salt=salt
    )
    if driven.errors:
        raise RuntimeError("; ".join(driven.errors))
    return driven.results, driven.rate


def measure(url: str, nodes: int, args: argparse.Namespace) -> list[Cell]:
    asyncio.run(drive(url, 2, 40, 8, 99))
    cells = []
    for prompt_tokens in args.prompts:
        for streams in args.streams:
            cell = Cell(nodes, streams, prompt_tokens)
            for repeat in range(args.repeats):
                salt = repeat + 10 * streams + prompt_tokens
                results, rate = asyncio.run(drive(url, streams, prompt_tokens, args.tokens, salt))
                cell.tokens.append(statistics.median(result.tokens for result in results))
                cell.total_rate.append(sum(result.rate for result in results))
                cell.wall_rate.append(rate)
                cell.ttft.append(statistics.median(result.ttft for result in results))
                gaps = [gap for result in results for gap in result.gaps]
                cell.gap_p50.append(percentile(gaps, 0.5))
                cell.gap_p99.append(percentile(gaps, 0.99))
            cells.append(cell)
            print(
                f"  {nodes} node(s) {streams:3} stream(s) prompt {prompt_tokens:4}: {spread(cell.total_rate)} tok/s, "
                f"{statistics.median(cell.wall_rate):.1f} of all by all time, "
                f"TTFT {statistics.median(cell.ttft) * 1e3:.0f} ms, "
                f"gaps between tokens p50 {statistics.median(cell.gap_p50) * 1e3:.1f} "
                f"p99 {statistics.median(cell.gap_p99) * 1e3:.1f} ms",
                flush=True,
            )
    return cells


def settings_file(drafts: int, others: Sequence[str] = ()) -> Path:
    """Return a file that sets how many tokens are guessed ahead, and ``others``: ``section.key=value`` in TOML."""
    path = Path(tempfile.mkdtemp()) / "swarm.toml"
    path.write_text("\n".join([f"session.draft_tokens = {drafts}", *others, ""]))
    return path


def spread(values: list[float]) -> str:
    return f"{min(values):.1f} / {statistics.median(values):.1f} / {max(values):.1f}"


def memory_of(pid: int) -> dict[str, int]:
    """Resident bytes of a process: anonymous, file-backed and both (Linux); RSS only elsewhere."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        import psutil

        return {"rss": psutil.Process(pid).memory_info().rss}
    values = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    wanted = {"anonymous": "RssAnon", "file": "RssFile", "rss": "VmRSS"}
    return {key: int(values[name].split()[0]) * 1024 for key, name in wanted.items()}


GENERATE = """
import json, sys, time, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from swarm.models.store import ModelStore
name, dtype, threads, batch, tokens, repeats = sys.argv[1], *sys.argv[2:3], *map(int, sys.argv[3:7])
torch.set_num_threads(threads)
folder = ModelStore().find(name).folder
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
prompt = torch.randint(100, 20000, (batch, 45))
rates = []
class Clock:
    def __init__(self): self.times = []
    def put(self, value): self.times.append(time.perf_counter())
    def end(self): pass
with torch.inference_mode():
    for repeat in range(repeats + 1):
        streamer = Clock() if batch == 1 else None
        start = time.perf_counter()
        model.generate(prompt, max_new_tokens=1, min_new_tokens=1, do_sample=False)
        first = time.perf_counter() - start
        start = time.perf_counter()
        model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        wall = time.perf_counter() - start
        if repeat: rates.append(batch * (tokens - 1) / (wall - first))
    long = torch.randint(100, 20000, (1, 512))
    prefill = []
    for repeat in range(repeats + 1):
        took = []
        for ids in (long, long[:, :1]):
            start = time.perf_counter()
            model.generate(ids, max_new_tokens=1, min_new_tokens=1, do_sample=False)
            took.append(time.perf_counter() - start)
        if repeat: prefill.append(took[0] - took[1])
print(json.dumps({"rates": rates, "prefill": prefill}))
"""


def generate(args: argparse.Namespace, batch: int) -> dict[str, list[float]]:
    """Run transformers' generate at the same threads and dtype, in a process of its own."""
    command = [
        sys.executable,
        "-c",
        GENERATE,
        MODEL,
        args.dtype,
        str(args.threads),
        str(batch),
        str(args.tokens),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(
        [*command, str(args.repeats)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=1800,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def prefill_seconds(url: str, repeats: int) -> list[float]:
    """TTFT of a prompt of about 512 tokens minus TTFT of a tiny one, one pair a repeat."""
    differences = []
    for repeat in range(repeats):
        (long,), _ = asyncio.run(drive(url, 1, 512, 2, 5000 + repeat))
        (short,), _ = asyncio.run(drive(url, 1, 1, 2, 7000 + repeat))
        differences.append(long.ttft - short.ttft)
    return differences


def bytes_per_token(swarm: SwarmProcesses) -> float:
    """What the front door sends to the other hops for one token of decoding: a long answer minus a short one."""

    def sent() -> int:
        return sum(link["bytes_sent"] for link in swarm.nodes[0].get("/swarm/state")[1]["traffic"].values())

    counts = []
    for tokens in (16, 144):
        before = sent()
        asyncio.run(drive(swarm.nodes[0].url, 1, 40, tokens, 9000))
        counts.append(sent() - before)
    return (counts[1] - counts[0]) / 128


def wanted_of(args: argparse.Namespace, nodes: int) -> Wanted:
    """What a rival shall run; words of the prompts may be two tokens, hence the factor."""
    context = 2 * max(args.prompts) + args.tokens + CHAT_OVERHEAD
    return Wanted(MODEL, nodes, args.threads, args.dtype, max(2, *args.streams), context, args.gguf)


def measure_peer(wanted: Wanted, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Drive a rival just as the swarm; a rival that fails is reported and costs nothing else."""
    try:
        with running(name, wanted) as peer:
            print(f"{name}, {peer.version}, {peer.weights}", flush=True)
            cells = measure(peer.url, wanted.nodes, args)
            memory = [memory_of(pid) for pid in peer.pids]
        if not all(rate for cell in cells for rate in cell.total_rate):
            raise PeerError("its answers are too short to time")
    except (PeerError, RuntimeError, TimeoutError, OSError) as exc:
        print(f"{name}, {wanted.nodes} node(s): {exc!r}", file=sys.stderr, flush=True)
        return {"name": name, "nodes": wanted.nodes, "error": repr(exc)}
    return {
        "name": name,
        "version": peer.version,
        "weights": peer.weights,
        "nodes": wanted.nodes,
        "memory": memory,
        "cells": [asdict(cell) for cell in cells],
    }


def peer_lines(peers: list[dict[str, Any]], cells: dict[tuple[int, int, int], Cell]) -> list[str]:
    lines = []
    for peer in peers:
        title = f"swarm / {peer['name']}, {peer['nodes']} node(s)"
        if "error" in peer:
            lines.append(f"{title}: not measured, {peer['error'].splitlines()[0][:120]}")
        for theirs in peer.get("cells", []):
            ours = cells[theirs["nodes"], theirs["streams"], theirs["prompt_tokens"]]
            what = f"{title}, {ours.streams} stream(s), prompt {ours.prompt_tokens}"
            lines.append(ratio_line(f"{what}, tok/s", ours.total_rate, theirs["total_rate"]))
            lines.append(ratio_line(f"{what}, tok/s by the wall", ours.wall_rate, theirs["wall_rate"]))
            lines.append(ratio_line(f"{what}, TTFT", ours.ttft, theirs["ttft"]))
    return lines


def ratio_line(name: str, above: list[float], below: list[float]) -> str:
    ratios = [a / b for a, b in zip(above, below, strict=False)]
    return f"{name}: {min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--nodes", type=int, nargs="+", default=[1, 2, 3], choices=sorted(SPLITS), help="sizes of swarms"
    )
    parser.add_argument(
        "--streams", type=int, nargs="+", default=[1, 4, 8, 16, 32], help="answers at once, one round each"
    )
    parser.add_argument("--prompts", type=int, nargs="+", default=[40, 500], help="about so many tokens")
    parser.add_argument("--tokens", type=int, default=96, help="of each answer")
    parser.add_argument("--threads", type=int, default=1, help="compute threads of each node")
    parser.add_argument("--dtype", default="bfloat16", help="of weights and hidden states")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of each kind")
    parser.add_argument("--no-generate", action="store_true", help="leave transformers' generate out")
    parser.add_argument(
        "--drafts",
        type=int,
        default=0,
        help="tokens guessed ahead; 0, since greedy text repeats itself more than people's",
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        choices=sorted(PEERS),
        help="measure this rival too; may be given twice",
    )
    parser.add_argument("--gguf", type=Path, help="the model as llama.cpp reads it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for all nodes"
    )
    parser.add_argument("--json", type=Path, help="keep everything in this file")
    args = parser.parse_args()
    try:
        for name in args.peer:
            PEERS[name].check(wanted_of(args, max(args.nodes)))
    except PeerError as exc:
        parser.error(str(exc))
    result: dict[str, Any] = {
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "versions": {
            name: version(name) for name in ("swarm-inference", "torch", "transformers", "websockets")
        },
        "arguments": {key: str(value) for key, value in vars(args).items()},
        "cells": [],
        "memory": {},
        "ready_seconds": {},
        "loop_lag_ms": {},
        "bytes_per_token": {},
        "peers": [],
    }
    settings = settings_file(args.drafts, args.set)
    cells: dict[tuple[int, int, int], Cell] = {}
    prefill: list[float] = []
    for nodes in args.nodes:
        started = time.monotonic()
        doors = [True, *[False] * (nodes - 1)]
        extra = ["--config", str(settings)]
        with swarm_of(
            SPLITS[nodes], doors=doors, dtype=args.dtype, threads=args.threads, extra=extra
        ) as swarm:
            result["ready_seconds"][nodes] = time.monotonic() - started
            wait_for(
                "every span", lambda s=swarm, n=nodes: len(s.nodes[0].get("/swarm/state")[1]["members"]) == n
            )
            for cell in measure(swarm.nodes[0].url, nodes, args):
                cells[cell.nodes, cell.streams, cell.prompt_tokens] = cell
            result["loop_lag_ms"][nodes] = swarm.nodes[0].get("/swarm/state")[1]["loop_lag_ms"]
            if nodes > 1:
                result["bytes_per_token"][nodes] = bytes_per_token(swarm)
            if nodes == 1:
                prefill = prefill_seconds(swarm.nodes[0].url, args.repeats)
            result["memory"][nodes] = [
                {"span": span, **memory_of(node.pid)}
                for span, node in zip(SPLITS[nodes], swarm.nodes, strict=True)
            ]
        for name in args.peer:
            result["peers"].append(measure_peer(wanted_of(args, nodes), name, args))
    result["cells"] = [asdict(cell) for cell in cells.values()]
    lines = ratios(args, cells, prefill, result)
    print("\nRatios (min / median / max)")
    print("\n".join(lines))
    result["ratios"] = lines
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def ratios(
    args: argparse.Namespace,
    cells: dict[tuple[int, int, int], Cell],
    prefill: list[float],
    result: dict[str, Any],
) -> list[str]:
    lines = []
    short = min(args.prompts)
    one = cells.get((1, 1, short))
    for nodes in (2, 3):
        more = cells.get((nodes, 1, short))
        if one and more:
            lines.append(
                ratio_line(f"1 stream, {nodes} nodes / 1 node, tok/s", more.total_rate, one.total_rate)
            )
            added = [(m - o) * 1e3 / (nodes - 1) for m, o in zip(more.gap_p50, one.gap_p50, strict=True)]
            lines.append(f"a hop adds, ms a token: {spread(added)}")
    two, single = cells.get((2, 16, short)), cells.get((1, 16, short))
    if two and single:
        lines.append(ratio_line("16 streams, 2 nodes / 1 node, tok/s", two.total_rate, single.total_rate))
        lines.append(ratio_line("the same, all tokens by all time", two.wall_rate, single.wall_rate))
    if not args.no_generate:
        for batch in (1, 8):
            cell = cells.get((1, batch, short))
            if cell:
                reference = generate(args, batch)
                result[f"generate_{batch}"] = reference
                lines.append(
                    ratio_line(
                        f"{batch} stream(s), 1 node / generate, tok/s", cell.total_rate, reference["rates"]
                    )
                )
                if batch == 1 and prefill:
                    lines.append(
                        ratio_line(
                            "prefill of 512, seconds of generate / those of 1 node (more is better)",
                            reference["prefill"],
                            prefill,
                        )
                    )
    for nodes, octets in result["bytes_per_token"].items():
        lines.append(f"bytes the door sends a token, {nodes} nodes (heartbeats included): {octets:.0f}")
    for nodes, lag in result["loop_lag_ms"].items():
        lines.append(
            f"event-loop lag of the door, {nodes} node(s), ms: p50 {lag['p50']}, p99 {lag['p99']}, max {lag['max']}"
        )
    for nodes, held in result["memory"].items():
        lines += [f"RSS of {m['span']} of {nodes} node(s): {m['rss'] / 2**20:.0f} MiB" for m in held]
    return lines + peer_lines(result["peers"], cells)


if __name__ == "__main__":
    raise SystemExit(main())
