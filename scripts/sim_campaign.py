#!/usr/bin/env python3
"""Run many seeds of the simulated swarms and say which violated an invariant.

    scripts/sim_campaign.py --seeds 1000                    20 nodes, 2 virtual minutes each
    scripts/sim_campaign.py --seeds 50 --seconds 600        ten virtual minutes
    scripts/sim_campaign.py --large 1000                    a swarm of a thousand that forms at once
    scripts/sim_campaign.py --sockets 100                   no simulation: nodes with real sockets in one process

Results are kept in --results, one line a seed: what is there is not run again, so a campaign may be run in pieces
(--for SECONDS ends one). A seed that failed is run again alone with --first SEED --seeds 1 --again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import importlib
import json
import logging
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _bootstrap import ROOT, enter_environment

WORLDS = {"membership": "tests.sim.faults", "sessions": "tests.sim.sessions"}
"""Modules with ``run(seed, nodes, seconds)``, whose result has ``problems``, ``history`` and ``messages``."""

Job = tuple[str, int, int, float]


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    enter_environment(with_tests=True)
    sys.path.insert(0, str(ROOT))
    if options.large:
        return _large(options.large, options.first)
    if options.sockets:
        return _sockets(options.sockets, options.stay, options.over)
    results = Path(options.results)
    done = {} if options.again else _read(results)
    wanted = list(_wanted(options))
    open_jobs = [job for job in wanted if _name(job) not in done]
    ends = time.monotonic() + options.limit
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a", encoding="utf-8") as file:
        for line in _run(open_jobs, options.jobs, ends):
            done[line["job"]] = line
            file.write(json.dumps(line) + "\n")
            file.flush()
            if line["problems"]:
                print(f"{line['job']}: {'; '.join(line['problems'][:3])}", flush=True)
    return _report([done[_name(job)] for job in wanted if _name(job) in done], len(wanted))


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds (100)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--nodes", type=int, default=20, help="nodes of each swarm (20)")
    parser.add_argument("--seconds", type=float, default=120.0, help="virtual seconds of faults (120)")
    parser.add_argument("--world", choices=[*WORLDS, "all"], default="all", help="what is simulated (all)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument(
        "--for", dest="limit", type=float, default=86400.0, help="start no seed after SECONDS"
    )
    parser.add_argument("--results", default="build/sim_campaign.jsonl", help="what was run already")
    parser.add_argument("--again", action="store_true", help="run the seeds although they were run")
    parser.add_argument("--large", type=int, default=0, metavar="NODES", help="form one large swarm instead")
    parser.add_argument(
        "--sockets", type=int, default=0, metavar="NODES", help="join gossip-only nodes instead"
    )
    parser.add_argument(
        "--over", type=float, default=0.0, help="these start evenly over so many seconds (0: at once)"
    )
    parser.add_argument("--stay", type=float, default=20.0, help="watch them for so long after that (20)")
    return parser.parse_args(arguments)


def _wanted(options: argparse.Namespace) -> Iterator[Job]:
    for world in WORLDS if options.world == "all" else [options.world]:
        for seed in range(options.first, options.first + options.seeds):
            yield world, seed, options.nodes, options.seconds


def _run(jobs: list[Job], processes: int, ends: float) -> Iterator[dict[str, Any]]:
    """Yield a line a seed as they end; none is started after ``ends``."""
    if processes == 1:
        for job in jobs:
            if time.monotonic() >= ends:
                return
            yield _one(job)
        return
    # spawn: a simulation must not inherit anything, and it is what Windows and macOS have.
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=50) as pool:
        running = (pool.apply_async(_one, (job,)) for job in jobs)
        window = [result for result, _ in zip(running, range(2 * processes), strict=False)]
        while window:
            yield window.pop(0).get()
            if time.monotonic() < ends:
                window += [result for result, _ in zip(running, range(1), strict=False)]


def _one(job: Job) -> dict[str, Any]:
    sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
    world, seed, nodes, seconds = job
    gc.disable()
    started = time.process_time()
    outcome = importlib.import_module(WORLDS[world]).run(seed, nodes, seconds)
    gc.enable()
    gc.collect()
    return {
        "job": _name(job),
        "problems": list(outcome.problems),
        "history": _digest(outcome.history),
        "messages": outcome.messages,
        "cpu_seconds": round(time.process_time() - started, 2),
    }


def _digest(history: str | Sequence[str]) -> str:
    """The SHA-256 of a course's history, or what the world gave for it."""
    if isinstance(history, str):
        return history
    return hashlib.sha256("\n".join(history).encode()).hexdigest()


def _large(nodes: int, seed: int) -> int:
    from tests.sim.large import form

    gc.disable()
    started = time.process_time()
    formed = form(nodes, seed=seed)
    print(
        f"{nodes} nodes: every node holds every record after {formed.seconds:.2f} virtual seconds; "
        f"{formed.messages} messages, {formed.fewest_links} to {formed.most_links} links a node, "
        f"{formed.suspected} suspicions; {time.process_time() - started:.0f} s of processor time"
    )
    return 0


def _sockets(nodes: int, stay_seconds: float, over_seconds: float) -> int:
    from tests.support.gossip_node import join_and_stay

    logging.disable()  # a line for each attempt that comes to nothing
    started = time.process_time()
    joined = asyncio.run(join_and_stay(nodes, stay_seconds, over_seconds))
    cpu = time.process_time() - started
    print(
        f"{nodes} nodes that started over {over_seconds:g} s: after the last all had all records in "
        f"{joined.records_seconds:.2f} s, and all held\nall for alive in {joined.seconds:.2f} s. "
        f"In the {joined.stayed:.0f} s after that each held at least {joined.fewest_alive} for alive,\n"
        f"at most {joined.most_doubted:.2%} of all pairs were in doubt, and "
        f"{joined.dead} were held dead at the end; {joined.most_links} links a node at most; {cpu:.0f} s of CPU"
    )
    return 1 if joined.dead else 0


def _name(job: Job) -> str:
    world, seed, nodes, seconds = job
    return f"{world} seed {seed} nodes {nodes} seconds {seconds:g}"


def _read(results: Path) -> dict[str, dict[str, Any]]:
    if not results.exists():
        return {}
    lines = (json.loads(line) for line in results.read_text(encoding="utf-8").splitlines())
    return {line["job"]: line for line in lines}


def _report(lines: list[dict[str, Any]], wanted: int) -> int:
    failed = [line for line in lines if line["problems"]]
    cpu = sum(line["cpu_seconds"] for line in lines)
    messages = sum(line["messages"] for line in lines)
    print(
        f"{len(lines)} of {wanted} seeds run, {len(failed)} failed; {messages} messages, {cpu:.0f} s of CPU"
    )
    for line in failed:
        print(f"failed: {line['job']}")
    return 1 if failed or not lines else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
