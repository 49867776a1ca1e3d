#!/usr/bin/env python3
"""A swarm under load while its nodes are killed, frozen and restarted: success rate, pauses, leaks (F7 of the matrix).

Runs a front door and three spans of the default model, each held by two or three nodes, on loopback. A fault every few
seconds hits a holder of a span that another one still holds: SIGKILL, SIGSTOP for some seconds, or a restart in good
order. Streams run all the time, and each text is compared with the undisturbed one. Ends after --minutes by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
import psutil

from tests.support.pressure import metric
from tests.support.streams import Heard, body_of, hear, percentile
from tests.support.swarm_process import MODEL, NodeProcess, SwarmProcesses, swarm_of, wait_for

SPANS = ("0:10", "10:20", "20:30")
WARM_UP_SECONDS = 120.0
"""Memory is compared from then on: caches and pools fill before that."""
SETTLE_SECONDS = 30.0
QUESTIONS = tuple(
    f"Write {count} short sentences about {thing}."
    for count, thing in zip(
        range(3, 11),
        ("birds", "the sea", "old trees", "trains", "winter", "bread", "stars", "letters"),
        strict=True,
    )
)


@dataclass
class Sample:
    """The door at one moment. ``seconds`` since the load began."""

    seconds: float
    rss_bytes: int
    descriptors: int
    threads: int
    tasks: int


@dataclass
class Findings:
    answers: list[tuple[int, Heard]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Chaos:
    """One run: the load, the faults and the measurements side by side."""

    def __init__(self, swarm: SwarmProcesses, arguments: argparse.Namespace) -> None:
        self._swarm = swarm
        self._door = swarm.nodes[0]
        self._arguments = arguments
        self._random = random.Random(arguments.seed)
        self._texts: list[str] = []
        self._until = 0.0
        self._began = 0.0
        self._tasks_before = 0
        self._back: set[asyncio.Task[None]] = set()
        self.found = Findings()

    async def run(self) -> None:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as client:
            for number in range(len(QUESTIONS)):
                heard = await hear(client, self._door.url, self._body(number))
                if not heard.whole:
                    raise RuntimeError(f"an undisturbed answer failed: {heard}")
                self._texts.append(heard.text)
            self._tasks_before = int(metric(self._door, "swarm_tasks"))
            self._began = time.monotonic()
            self._until = self._began + self._arguments.minutes * 60
            async with asyncio.TaskGroup() as tasks:
                for worker in range(self._arguments.streams):
                    tasks.create_task(self._load(client, worker))
                tasks.create_task(self._faults())
                tasks.create_task(self._measure())
            await asyncio.gather(*self._back)
        await self._leaks()

    def _body(self, number: int) -> dict[str, Any]:
        seeded = {"temperature": 0.8, "seed": number} if number % 2 else {}
        return body_of(MODEL, QUESTIONS[number], self._arguments.tokens, **seeded)

    async def _load(self, client: httpx.AsyncClient, worker: int) -> None:
        number = worker
        while time.monotonic() < self._until:
            number = (number + 1) % len(QUESTIONS)
            heard = await hear(client, self._door.url, self._body(number))
            self.found.answers.append((number, heard))
            if heard.whole and heard.text != self._texts[number]:
                self._tell_difference(number, heard.text)
            if not heard.whole:
                at = time.monotonic() - self._began
                print(
                    f"{at:6.1f} s: an answer failed: {heard.status} {heard.error} {heard.broken}", flush=True
                )
                await asyncio.sleep(float(heard.retry_after or 1))

    def _tell_difference(self, number: int, text: str) -> None:
        """Say where a text leaves the undisturbed one: a rounding at a near tie and a lost token look different."""
        wanted = self._texts[number]
        at = next((i for i, (a, b) in enumerate(zip(text, wanted, strict=False)) if a != b), -1)
        kind = "seeded" if number % 2 else "greedy"
        print(
            f"{time.monotonic() - self._began:6.1f} s: question {number} ({kind}) differs from character {at} on: "
            f"{text[max(0, at - 30) : at + 40]!r} instead of {wanted[max(0, at - 30) : at + 40]!r}",
            flush=True,
        )

    async def _faults(self) -> None:
        kinds = {"kill": self._kill, "freeze": self._freeze, "restart": self._restart}
        while time.monotonic() < self._until:
            await asyncio.sleep(self._arguments.every * self._random.uniform(0.5, 1.5))
            victim = await asyncio.to_thread(self._victim)
            if victim is None:
                continue
            kind = self._random.choice(list(kinds))
            self.found.faults[kind] += 1
            task = asyncio.create_task(asyncio.to_thread(kinds[kind], victim))
            self._back.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._back.discard(task)
        if (error := task.exception()) is not None:
            self.found.problems.append(repr(error))

    def _victim(self) -> NodeProcess | None:
        """A holder of a span that has another one ready."""
        spans = [span for span in SPANS if self._swarm.holders(self._door, span) >= 2]
        if not spans:
            return None
        span = self._random.choice(spans)
        holders = [
            node
            for node in self._swarm.nodes[1:]
            if span in node.arguments and node.process is not None and node.process.poll() is None
        ]
        return self._random.choice(holders) if len(holders) >= 2 else None

    def _kill(self, victim: NodeProcess) -> None:
        victim.kill()
        time.sleep(1.0)
        victim.start()

    def _freeze(self, victim: NodeProcess) -> None:
        victim.pause()
        time.sleep(8.0)
        victim.go_on()

    def _restart(self, victim: NodeProcess) -> None:
        victim.stop(35)
        if victim.process is not None and victim.process.returncode not in (0, None):
            self.found.problems.append(f"{victim.name} left with {victim.process.returncode}")
        victim.start()

    async def _measure(self) -> None:
        while time.monotonic() < self._until:
            self.found.samples.append(await asyncio.to_thread(self._sample))
            await asyncio.sleep(5.0)

    def _sample(self) -> Sample:
        process = psutil.Process(self._door.pid)
        return Sample(
            time.monotonic() - self._began,
            process.memory_info().rss,
            process.num_fds() if hasattr(process, "num_fds") else 0,
            process.num_threads(),
            int(metric(self._door, "swarm_tasks")),
        )

    async def _leaks(self) -> None:
        """After the load every node that runs must be at rest."""
        for node in self._swarm.nodes:
            try:
                await asyncio.to_thread(wait_for, f"{node.name}", node.at_rest, seconds=SETTLE_SECONDS)
            except TimeoutError:
                _, state = node.get("/swarm/state")
                engine = state["engine"] if state else None
                self.found.problems.append(f"{node.name} still holds {engine} after the end")
        self.found.samples.append(await asyncio.to_thread(self._sample))

    def summary(self) -> dict[str, Any]:
        found = self.found
        heard = [answer for _, answer in found.answers]
        whole = [answer for answer in heard if answer.whole]
        wrong = [n for n, answer in found.answers if answer.whole and answer.text != self._texts[n]]
        pauses = [answer.pause for answer in whole]
        warm = [sample for sample in found.samples if sample.seconds >= WARM_UP_SECONDS] or found.samples
        first, last = warm[0], warm[-1]
        busy = [sample.tasks for sample in found.samples[:-1]]
        return {
            "answers": len(heard),
            "success (%)": round(100 * len(whole) / max(1, len(heard)), 2),
            "texts wrong": len(wrong),
            "ended without a word": sum(not answer.ended_honestly for answer in heard),
            "faults": dict(found.faults),
            "pause p50 / p99 / max (s)": [round(percentile(pauses, s), 2) for s in (0.5, 0.99, 1.0)],
            "door RSS drift (%)": round(100 * (last.rss_bytes / first.rss_bytes - 1), 2),
            "door RSS (MiB)": [round(first.rss_bytes / 2**20), round(last.rss_bytes / 2**20)],
            "door descriptors": [first.descriptors, last.descriptors],
            "door threads": [first.threads, last.threads],
            "door tasks before / under load / after": [self._tasks_before, max(busy, default=0), last.tasks],
            "problems": found.problems,
        }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="how long the load runs")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--holders", type=int, default=2, help="nodes that hold each span")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between faults, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the summary and all samples to this file")
    arguments = parser.parse_args()
    from _model import ensure_default_model

    ensure_default_model()
    with swarm_of(["none", *SPANS * arguments.holders]) as swarm:
        for span in SPANS:
            wait_for(
                f"all holders of {span}",
                lambda span=span: swarm.holders(swarm.nodes[0], span) == arguments.holders,  # type: ignore[misc]
            )
        chaos = Chaos(swarm, arguments)
        asyncio.run(chaos.run())
    found = chaos.summary()
    for name, value in found.items():
        print(f"{name}: {value}")
    if arguments.json:
        samples = [[s.seconds, s.rss_bytes, s.descriptors, s.threads, s.tasks] for s in chaos.found.samples]
        arguments.json.write_text(json.dumps({**found, "samples": samples}, indent=1))
    return 1 if found["texts wrong"] or found["ended without a word"] or found["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
