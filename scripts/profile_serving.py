#!/usr/bin/env python3
"""Where the processors' time goes while a swarm serves: for each thread of each node, a token's share of it.

Starts a swarm on loopback, drives it with the client of bench_serving.py, and reads from /proc (Linux only) what every
thread spent meanwhile and how often it slept: CPU milliseconds and voluntary context switches a generated token.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_serving import SPLITS, drive, settings_file
from tests.support.swarm_process import swarm_of

Usage = dict[str, tuple[float, int]]
"""Thread name -> CPU seconds, voluntary context switches."""

_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def usage_of(pid: int) -> Usage:
    """Return what each thread of a process has used so far; threads of one name are added up."""
    found: Usage = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / _TICK
        lines = (task / "status").read_text().splitlines()
        switches = next(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
        name = (task / "comm").read_text().strip()
        name = "event loop" if task.name == str(pid) else name
        before = found.get(name, (0.0, 0))
        found[name] = (before[0] + seconds, before[1] + switches)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2], choices=sorted(SPLITS))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    for nodes in options.nodes:
        doors = [True, *[False] * (nodes - 1)]
        extra = ["--config", str(settings_file(0, options.set))]
        with swarm_of(SPLITS[nodes], doors=doors, dtype=options.dtype, extra=extra) as swarm:
            url = swarm.nodes[0].url
            asyncio.run(drive(url, 2, 40, 8, 99))
            for streams in options.streams:
                pids = {"client": os.getpid(), **{node.name: node.pid for node in swarm.nodes}}
                before = {name: usage_of(pid) for name, pid in pids.items()}
                began = time.perf_counter()
                results, rate = asyncio.run(drive(url, streams, 40, options.tokens, 7 + streams))
                seconds = time.perf_counter() - began
                tokens = sum(result.tokens for result in results)
                print(
                    f"{nodes} node(s), {streams} stream(s): {rate:.1f} tok/s, {1e3 * seconds / tokens:.2f} ms a token"
                )
                for name, pid in pids.items():
                    for thread, (spent, switches) in usage_of(pid).items():
                        old = before[name].get(thread, (0.0, 0))
                        share = 1e3 * (spent - old[0]) / tokens
                        sleeps = (switches - old[1]) / tokens
                        if share >= 0.01 or sleeps >= 0.1:
                            print(
                                f"  {name:8} {thread:18} {share:6.2f} ms, {sleeps:5.2f} sleeps a token",
                                flush=True,
                            )


if __name__ == "__main__":
    main()
