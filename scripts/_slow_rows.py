"""F10 of the fault matrix: a hop whose core others take, so that it computes ten times slower or hardly at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from _matrix import Rows, any_number_of_streams
from tests.support.streams import Heard, body_of, hear
from tests.support.swarm_process import MODEL, NodeProcess, SwarmProcesses, swarm_of, wait_for

SPANS = ("0:10", "10:20", "20:30")
TOKENS = 160
SLOW_HOGS = 9
"""Beside so many busy processes on its core a node gets a tenth of it."""
STARVING_HOGS = 60
STARVED_SECONDS = 25.0
SETTLE_SECONDS = 10.0


@contextmanager
def hogged(node: NodeProcess, hogs: int) -> Iterator[None]:
    """Run so many busy loops on one core, which the node shares with them and nobody else uses."""
    process = psutil.Process(node.pid)
    before = process.cpu_affinity()
    core = max(before)
    for thread in process.threads():
        os.sched_setaffinity(thread.id, {core})
    command = [sys.executable, "-c", f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"]
    busy = [subprocess.Popen(command) for _ in range(hogs)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()
        with contextlib.suppress(psutil.NoSuchProcess):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, set(before))


@contextmanager
def alone(swarm: SwarmProcesses, victim: NodeProcess) -> Iterator[None]:
    """Keep every process of the run but the victim off the victim's core."""
    cores = set(psutil.Process(victim.pid).cpu_affinity())
    others = [psutil.Process(node.pid) for node in swarm.nodes if node is not victim] + [psutil.Process()]
    try:
        _bind(others, cores - {max(cores)})
        yield
    finally:
        _bind(others, cores)


def _bind(processes: list[psutil.Process], cores: set[int]) -> None:
    for process in processes:
        for thread in process.threads():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, cores)


class SlowRows(Rows):
    """A front door and two holders of each third of the default model; needs two cores and Linux."""

    async def f10(self) -> None:
        await self._a_slow_hop_is_left()
        await self._a_starved_node_buries_nobody()

    async def _a_slow_hop_is_left(self) -> None:
        body = body_of(MODEL, "Write a long story about a lighthouse.", TOKENS)
        slowed: list[tuple[int, float]] = []
        left: list[tuple[int, float]] = []
        stack = contextlib.ExitStack()
        so_far = [0]

        def slow_down(count: int, heard: Heard) -> None:
            so_far[0] = count
            if count == 40 and not slowed:
                victim = self._swarm.on_route(heard.route, 15)
                stack.enter_context(alone(self._swarm, victim))
                stack.enter_context(hogged(victim, SLOW_HOGS))
                slowed.append((count, time.monotonic()))
                watches.append(asyncio.create_task(asyncio.to_thread(self._until_left, victim, so_far, left)))

        watches: list[asyncio.Task[None]] = []
        async with any_number_of_streams() as client:
            text = await self._undisturbed(client, body)
            with stack:
                heard = await hear(client, self._door.url, body, slow_down)
                beside = await hear(client, self._door.url, body)
            await asyncio.gather(*watches)
        self._equal("F10", "a hop gets a tenth of a core: answers whole and equal", [heard, beside], text)
        (began, at), moved = slowed[0], left[0] if left else None
        gaps = [b - a for a, b in zip(heard.times, heard.times[1:], strict=False)]
        usual = sorted(gaps[:began])[began // 2]
        tokens, seconds = (moved[0] - began, moved[1] - at) if moved else (None, None)
        good = tokens is not None and seconds is not None and (tokens <= 10 or seconds < 5.0)
        found = "never" if seconds is None else f"after {tokens} tokens, {seconds:.2f} s"
        self._note("F10", "left", "< 5 s or 10 steps", found, good)
        within = sorted(gaps[began : began + (tokens or 0) + 1])
        slow = within[len(within) // 2] if within else 0.0
        self._note(
            "F10", "a token before, and until it is left (medians)", "", f"{usual:.3f} s / {slow:.3f} s", None
        )
        self._note("F10", "longest pause", "", f"{heard.pause:.2f} s", None)
        self._note("F10", "recoveries in it", "", str(len(self._door.reroutes)), None)

    def _until_left(self, victim: NodeProcess, so_far: list[int], left: list[tuple[int, float]]) -> None:
        """Watch the route of the one running answer until it leaves the victim, or ends."""
        while True:
            _, state = self._door.get("/swarm/state")
            sessions = state["sessions"] if state else []
            if not sessions:
                return
            if not any(hop["node"].startswith(victim.node_id) for hop in sessions[0]["route"]):
                left.append((so_far[0], time.monotonic()))
                return
            time.sleep(0.02)

    async def _a_starved_node_buries_nobody(self) -> None:
        body = body_of(MODEL, "Say something about rain.", 24)
        victim = self._swarm.nodes[1]
        dead: set[tuple[str, str]] = set()
        answers: list[Heard] = []
        async with any_number_of_streams() as client:
            text = await self._undisturbed(client, body)
            with alone(self._swarm, victim), hogged(victim, STARVING_HOGS):
                until = time.monotonic() + STARVED_SECONDS
                while time.monotonic() < until:
                    answers.append(await hear(client, self._door.url, body))
                    dead |= await asyncio.to_thread(self._held_dead)
            lag = victim.get("/swarm/state")[1]["loop_lag_ms"]
            until = time.monotonic() + SETTLE_SECONDS
            while time.monotonic() < until:
                dead |= await asyncio.to_thread(self._held_dead)
                await asyncio.sleep(0.25)
        others = {(who, whom) for who, whom in dead if whom != victim.name}
        self._equal("F10", "a node starves: answers whole and equal", answers, text)
        self._note("F10", "others held dead by anybody", "0", str(len(others)), not others)
        self._note("F10", "the starved node held dead by", "", f"{len(dead - others)} of 6", None)
        self._note(
            "F10", "how late its loop ran", "", f"p50 {lag['p50']:.0f} ms, max {lag['max']:.0f} ms", None
        )
        self._note("F10", "all routable again", "yes", str(all_held(self._swarm)), all_held(self._swarm))

    def _held_dead(self) -> set[tuple[str, str]]:
        """Who holds whom for dead now, by names."""
        found: set[tuple[str, str]] = set()
        for node in self._swarm.nodes:
            _, state = node.get("/swarm/state")
            members: list[dict[str, Any]] = state["members"] if state else []
            found |= {(node.name, member["name"]) for member in members if member["health"] == "dead"}
        return found


def all_held(swarm: SwarmProcesses) -> bool:
    return all(swarm.holders(swarm.nodes[0], span) == 2 for span in SPANS)


@contextmanager
def slow_rows(_: str) -> Iterator[SlowRows]:
    """A front door and two holders of each third of the default model."""
    with swarm_of(["none", *SPANS, *SPANS]) as swarm:
        wait_for("two holders of each third", lambda: all_held(swarm))
        yield SlowRows(swarm)
