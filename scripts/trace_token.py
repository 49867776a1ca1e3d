#!/usr/bin/env python3
"""Follows tokens of one stream through their swarm: what happens between two tokens, where, and how long it takes.

Starts nodes whose functions on a token's way note when they are entered (CLOCK_MONOTONIC, one clock for all processes
of a machine), streams one answer, and prints the median time from each point to the next over all tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import functools
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _bootstrap import enter_environment

if __name__ == "__main__" and "SWARM_TRACE" not in os.environ:
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

Point = tuple[float, str]
CYCLE_START = "node0 sampled"


def points() -> list[tuple[Any, str, str, bool]]:
    """Return (class, method, name, whether its end counts too) of everything on a token's way."""
    from swarm.engine.core import ComputeCore
    from swarm.engine.worker import Engine
    from swarm.net.connection import Connection
    from swarm.node.generation import RunningGeneration
    from swarm.node.origin import Origin
    from swarm.node.stage_service import StageService

    return [
        (Connection, "buffer_updated", "bytes read", False),
        (Connection, "write", "frame written", True),
        (StageService, "on_step", "step arrives", False),
        (Engine, "submit", "job queued", True),
        (ComputeCore, "submit", "compute thread takes job", False),
        (ComputeCore, "_step", "layers", True),
        (ComputeCore, "_sample_all", "head", True),
        (StageService, "on_result", "result of layers on the loop", False),
        (Origin, "received", "output arrives", False),
        (Origin, "computed", "sampled", False),
        (RunningGeneration, "_emit", "token told", True),
    ]


def traced() -> None:
    """Run ``swarm`` in this process with the points noted; the notes go to a file at its end."""
    noted: list[Point] = []
    for owner, method, name, ends in points():
        setattr(owner, method, noting(noted, getattr(owner, method), name, ends=ends))
    target = Path(os.environ["SWARM_TRACE"]) / f"{os.getpid()}.json"
    atexit.register(lambda: target.write_text(json.dumps(noted)))
    from swarm.__main__ import main

    sys.argv = ["swarm", *sys.argv[1:]]
    raise SystemExit(main())


def noting(noted: list[Point], function: Callable[..., Any], name: str, *, ends: bool) -> Callable[..., Any]:
    @functools.wraps(function)
    def noting_function(*args: Any, **kwargs: Any) -> Any:
        noted.append((time.monotonic(), name))
        try:
            return function(*args, **kwargs)
        finally:
            if ends:
                noted.append((time.monotonic(), name + " done"))

    return noting_function


def steady(notes: list[Point], tokens: int) -> list[list[Point]]:
    """Cut the notes into one list a token and return those of the most frequent sequence of points."""
    starts = [index for index, (_, name) in enumerate(notes) if name == CYCLE_START]
    cycles = [notes[a : b + 1] for a, b in itertools.pairwise(starts)][-tokens:]
    names = [tuple(name for _, name in cycle) for cycle in cycles]
    usual = statistics.mode(names)
    return [cycle for cycle, its in zip(cycles, names, strict=True) if its == usual]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=2, choices=[1, 2, 3])
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    from bench_serving import SPLITS, drive, settings_file
    from tests.support.swarm_process import swarm_of

    with tempfile.TemporaryDirectory() as folder:
        os.environ["SWARM_TRACE"] = folder
        program = (sys.executable, str(Path(__file__).resolve()))
        doors = [True, *[False] * (options.nodes - 1)]
        extra = ["--config", str(settings_file(0, options.set))]
        with swarm_of(
            SPLITS[options.nodes], doors=doors, dtype=options.dtype, extra=extra, program=program
        ) as swarm:
            asyncio.run(drive(swarm.nodes[0].url, 1, 40, 16, 99))
            asyncio.run(drive(swarm.nodes[0].url, 1, 40, options.tokens, 7))
            names = {node.pid: node.name for node in swarm.nodes}
        notes = sorted(
            (at, f"{names[int(file.stem)]} {name}")
            for file in Path(folder).glob("*.json")
            for at, name in json.loads(file.read_text())
        )
    cycles = steady(notes, options.tokens)
    whole = statistics.median(cycle[-1][0] - cycle[0][0] for cycle in cycles)
    print(
        f"{options.nodes} node(s): {1e3 * whole:.2f} ms a token, median of {len(cycles)} tokens of one sequence"
    )
    for index, (_, name) in enumerate(cycles[0]):
        since = statistics.median(cycle[index][0] - cycle[max(index - 1, 0)][0] for cycle in cycles)
        at = statistics.median(cycle[index][0] - cycle[0][0] for cycle in cycles)
        print(f"  {1e3 * at:7.3f}  +{1e3 * since:6.3f}  {name}")


if __name__ == "__main__":
    if "SWARM_TRACE" in os.environ:
        traced()
    main()
