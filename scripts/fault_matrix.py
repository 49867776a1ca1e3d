#!/usr/bin/env python3
"""Rows of the fault matrix at their full size, with the number each is to reach: F2, F6, F18 and F19.

    scripts/fault_matrix.py                  all of them
    scripts/fault_matrix.py --only F2 F18    some

Runs two front doors and two holders of each half of a small random model on loopback, nodes of one thread each. Every
row gives nothing lost, doubled or changed as its first number. Ends by itself, within about four minutes.
scripts/kill_matrix.py is F1, scripts/chaos.py F7.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
import psutil

from tests.support.pressure import (
    SPANS,
    all_held,
    asking,
    being_written,
    end_of,
    metric,
    stalled,
    wait_at_rest,
)
from tests.support.streams import Heard, hear, percentile
from tests.support.swarm_process import NodeProcess, SwarmProcesses, swarm_of, wait_for
from tests.support.tiny_model import write_tiny_model

STALLED_SECONDS = 75.0
"""Readers are cut after that. Fifty answers of 1,000 tokens are computed before, and it is measured what others get."""
SETTINGS = f"""
[engine]
kv_bytes = 60000000
[api]
queue_seconds = 20.0
send_buffer_bytes = 16384
stalled_reader_seconds = {STALLED_SECONDS}
max_concurrent_per_key = 256
max_waiting = 1024
"""
FROZEN_SECONDS = 30.0


@dataclass
class Number:
    """One measured number beside the one to reach; ``good`` is None where the matrix names no bound."""

    row: str
    what: str
    wanted: str
    found: str
    good: bool | None


class Rows:
    """The swarm under test, and one method a row."""

    def __init__(self, swarm: SwarmProcesses) -> None:
        self._swarm = swarm
        self._door = swarm.nodes[0]
        self.numbers: list[Number] = []

    def _note(self, row: str, what: str, wanted: str, found: str, good: bool | None) -> None:
        self.numbers.append(Number(row, what, wanted, found, good))
        print(f"{row} {what}: {found}", flush=True)

    def _below(self, row: str, what: str, seconds: float | None, bound: float) -> None:
        found = "never" if seconds is None else f"{seconds:.2f} s"
        self._note(row, what, f"< {bound:g} s", found, seconds is not None and seconds < bound)

    async def _undisturbed(self, client: httpx.AsyncClient, body: dict[str, object]) -> str:
        heard = await hear(client, self._door.url, body)
        if not heard.whole:
            raise RuntimeError(f"an undisturbed answer failed: {heard}")
        return heard.text

    async def f2(self) -> None:
        """A hop stands still for 30 s under answers that go on elsewhere, then comes back."""
        body = asking(self._swarm, 1, 600, words=40)
        frozen: list[tuple[NodeProcess, float]] = []

        def freeze(count: int, heard: Heard) -> None:
            if count == 50 and not frozen:
                victim = self._swarm.on_route(heard.route, 4)
                frozen.append((victim, time.time()))
                victim.pause()

        async with _client() as client:
            text = await self._undisturbed(client, body)
            answers = [await hear(client, self._door.url, body, freeze)]
            victim, at = frozen[0]
            try:
                first = next((moment - at for moment in self._door.reroutes if moment >= at - 0.002), None)
                while time.time() < at + FROZEN_SECONDS:
                    answers.append(await hear(client, self._door.url, body))
            finally:
                victim.go_on()
            thawed = time.monotonic()
            answers.append(await hear(client, self._door.url, body))
            await asyncio.to_thread(wait_for, "all holders", lambda: all_held(self._swarm, self._door))
            ready = time.monotonic() - thawed
        equal = sum(heard.whole and heard.text == text for heard in answers)
        self._note(
            "F2", "answers whole and equal", "all", f"{equal} of {len(answers)}", equal == len(answers)
        )
        self._below("F2", "detected and left", first, 3.5)
        self._below("F2", "longest pause", max(heard.pause for heard in answers), 5.0)
        self._below("F2", "routable again after it goes on", ready, 5.0)

    async def f6(self) -> None:
        """Every holder is stopped in good order and started again under 20 streams."""
        bodies = [asking(self._swarm, number, 200, words=66) for number in range(5)]
        answers: list[tuple[int, Heard]] = []
        rolling = True

        async def ask_on(client: httpx.AsyncClient, number: int) -> None:
            while rolling:
                answers.append((number % 5, await hear(client, self._door.url, bodies[number % 5])))

        async with _client() as client:
            texts = [await self._undisturbed(client, body) for body in bodies]
            calm = await asyncio.gather(*(hear(client, self._door.url, bodies[n % 5]) for n in range(20)))
            workers = [asyncio.create_task(ask_on(client, number)) for number in range(20)]
            began = time.monotonic()
            for node in self._swarm.nodes[2:]:
                await asyncio.to_thread(node.stop, 35)
                node.start()
                await asyncio.to_thread(wait_for, "all holders", lambda: all_held(self._swarm, self._door))
            took = time.monotonic() - began
            rolling = False
            await asyncio.gather(*workers)
        failed = sum(not (heard.whole and heard.text == texts[which]) for which, heard in answers)
        self._note("F6", "answers failed or changed", "0", f"{failed} of {len(answers)}", failed == 0)
        pauses = [heard.pause for _, heard in answers]
        self._below("F6", "longest pause of an answer, p99", percentile(pauses, 0.99), 1.0)
        self._note("F6", "the same, p50 and max", "", _seconds(percentile(pauses, 0.5), max(pauses)), None)
        quiet = [heard.pause for heard in calm]
        self._note("F6", "20 streams and no restart, max", "", _seconds(max(quiet)), None)
        self._note("F6", "four restarts took", "", f"{took:.0f} s", None)

    async def f18(self) -> None:
        """A thousand clients leave in the middle, fifty at a time."""

        async def leave(client: httpx.AsyncClient, number: int) -> int:
            url = f"{self._swarm.nodes[number % 2].url}/v1/chat/completions"
            body = asking(self._swarm, number % 50, 1000)
            async with client.stream("POST", url, json=body, timeout=60) as answer:
                async for line in answer.aiter_lines():
                    if number % 2 == 0 or '"content"' in line:
                        break
                return answer.status_code

        async def wave(first: int, count: int) -> list[int]:
            room = asyncio.Semaphore(50)
            async with _client() as client:

                async def one(number: int) -> int:
                    async with room:
                        return await leave(client, number)

                return await asyncio.gather(*(one(number) for number in range(first, first + count)))

        await wave(0, 100)  # caches and pools fill
        wait_at_rest(self._swarm)
        before = self._resources()
        statuses = await wave(100, 1000)
        freed = await asyncio.to_thread(wait_at_rest, self._swarm)
        self._note("F18", "clients that left an answer", "1,000", str(statuses.count(200)), None)
        self._below("F18", "KV free on every node after the last left", freed, 3.0)
        await asyncio.sleep(2.0)
        after = self._resources()
        grown = [now - then for then, now in zip(before, after, strict=True)]
        self._note("F18", "descriptors more than before", "0", str(grown[0]), grown[0] <= 0)
        self._note("F18", "threads more than before", "0", str(grown[1]), grown[1] <= 0)
        self._note("F18", "tasks of the doors more than before", "0", str(grown[2]), grown[2] <= 0)
        self._note("F18", "memory of all nodes", "", f"{before[3] >> 20} to {after[3] >> 20} MiB", None)

    def _resources(self) -> tuple[int, int, int, int]:
        """Return descriptors and threads of all nodes, the doors' tasks, and all nodes' resident bytes."""
        nodes = [psutil.Process(node.pid) for node in self._swarm.nodes]
        return (
            sum(node.num_fds() for node in nodes),
            sum(node.num_threads() for node in nodes),
            sum(int(metric(node, "swarm_tasks")) for node in self._swarm.nodes[:2]),
            sum(node.memory_info().rss for node in nodes),
        )

    async def f19(self) -> None:
        """Fifty readers stop reading answers of 1,000 tokens; what others get meanwhile."""
        alone = [await self._rate(number) for number in range(5)]
        stuck = [
            stalled(self._door.url, asking(self._swarm, number, 1000, logprobs=True, top_logprobs=5))
            for number in range(50)
        ]
        began = time.monotonic()
        try:
            await asyncio.to_thread(
                wait_for, "all of them to be written to", lambda: being_written(self._door) == 50
            )
            computed = await asyncio.to_thread(wait_at_rest, self._swarm, 120.0)
            blocked = being_written(self._door)
            beside = [await self._rate(number) for number in range(5)]
            still = being_written(self._door)
            await asyncio.to_thread(wait_for, "all of them to be cut", lambda: being_written(self._door) == 0)
            cut = time.monotonic() - began
            ends = await asyncio.gather(*(asyncio.to_thread(end_of, reader) for reader in stuck))
        finally:
            for reader in stuck:
                reader.close()
        self._note("F19", "writers blocked, answers computed and KV free", "50", f"{blocked}", blocked == 50)
        self._note("F19", "the same after the others were measured", "50", f"{still}", still == 50)
        share = sorted(beside)[2] / sorted(alone)[2]
        self._note(
            "F19", "speed of others beside them (median of 5)", ">= 90 %", f"{share:.0%}", share >= 0.9
        )
        told = sum(reset and b"[DONE]" not in read for read, reset in ends)
        self._note("F19", "readers whose connection was reset", "50", str(told), told == 50)
        self._note("F19", "all computed / all cut after", "", _seconds(computed, cut), None)

    async def _rate(self, number: int) -> float:
        async with _client() as client:
            heard = await hear(client, self._door.url, asking(self._swarm, 100 + number, 300))
        if not heard.whole:
            raise RuntimeError(f"an answer beside stalled readers failed: {heard}")
        return 299 / (heard.times[-1] - heard.times[0])


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(limits=httpx.Limits(max_connections=None))


def _seconds(*values: float) -> str:
    return " / ".join(f"{value:.2f} s" for value in values)


def table(numbers: list[Number]) -> str:
    verdicts = {True: "yes", False: "**no**", None: ""}
    lines = ["| row | what | to reach | found | reached |", "|---|---|---|---|---|"]
    lines += [f"| {n.row} | {n.what} | {n.wanted} | {n.found} | {verdicts[n.good]} |" for n in numbers]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=["F2", "F6", "F18", "F19"], help="these rows (all)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()
    from _model import ensure_default_model

    ensure_default_model()  # the small model has its tokenizer
    with tempfile.TemporaryDirectory(prefix="swarm-matrix-") as folder:
        model = write_tiny_model(Path(folder) / "model")
        with swarm_of(["none", "none", *SPANS, *SPANS], model=model, settings=SETTINGS) as swarm:
            for door in swarm.nodes[:2]:
                wait_for("two holders of each half", lambda door=door: all_held(swarm, door))  # type: ignore[misc]
            rows = Rows(swarm)
            methods: dict[str, Callable[[], Awaitable[None]]] = {
                "F19": rows.f19,
                "F18": rows.f18,
                "F2": rows.f2,
                "F6": rows.f6,
            }
            for name, method in methods.items():
                if not arguments.only or name in arguments.only:
                    asyncio.run(method())  # type: ignore[arg-type]
                    wait_at_rest(swarm, 60)
    print(f"\n{table(rows.numbers)}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(number) for number in rows.numbers], indent=1))
    return 1 if any(number.good is False for number in rows.numbers) else 0


if __name__ == "__main__":
    raise SystemExit(main())
