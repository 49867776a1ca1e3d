"""F2, F6, F18, F19 and F22 of the fault matrix: many clients, and nodes that stop and start, over a small model."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import psutil

from _matrix import Rows, any_number_of_streams, in_seconds
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
from tests.support.swarm_process import NodeProcess, swarm_of, wait_for

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


class LoadRows(Rows):
    """Many clients and one small model: two front doors and two holders of each half."""

    async def f2(self) -> None:
        """A hop stands still for 30 s under answers that go on elsewhere, then comes back."""
        body = asking(self._swarm, 1, 600, words=40)
        frozen: list[tuple[NodeProcess, float]] = []

        def freeze(count: int, heard: Heard) -> None:
            if count == 50 and not frozen:
                victim = self._swarm.on_route(heard.route, 4)
                frozen.append((victim, time.time()))
                victim.pause()

        async with any_number_of_streams() as client:
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
        self._equal("F2", "answers whole and equal", answers, text)
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

        async with any_number_of_streams() as client:
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
        self._note("F6", "the same, p50 and max", "", in_seconds(percentile(pauses, 0.5), max(pauses)), None)
        quiet = [heard.pause for heard in calm]
        self._note("F6", "20 streams and no restart, max", "", in_seconds(max(quiet)), None)
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
            async with any_number_of_streams() as client:

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
        self._note("F19", "all computed / all cut after", "", in_seconds(computed, cut), None)

    async def _rate(self, number: int) -> float:
        async with any_number_of_streams() as client:
            heard = await hear(client, self._door.url, asking(self._swarm, 100 + number, 300))
        if not heard.whole:
            raise RuntimeError(f"an answer beside stalled readers failed: {heard}")
        return 299 / (heard.times[-1] - heard.times[0])

    async def f22(self) -> None:
        """A holder is started again with its key: as it was, without its incarnation, and from a copied folder."""
        victim = self._swarm.nodes[2]
        state = victim.folder / "state"
        async with any_number_of_streams() as client:
            text = await self._undisturbed(client, asking(self._swarm, 3, 60))
        plain = await self._back_again(victim)
        lost = await self._back_again(victim, (state / "incarnation").unlink)
        own = f"127.0.0.1:{victim.listen}"
        victim.arguments[:0] = ["--bootstrap", own]
        by_itself = await self._back_again(victim)
        shutil.copytree(state, victim.folder / "copy", ignore=shutil.ignore_patterns("*.sock"))
        copy = self._swarm.add(SPANS[0], start=False)
        self._swarm.nodes.remove(copy)
        copy.arguments[copy.arguments.index("--state") + 1] = str(victim.folder / "copy")
        copy.start()
        try:
            await asyncio.to_thread(
                wait_for, "the copy's end", lambda: copy.process and copy.process.poll() is not None
            )
        finally:
            copy.kill()
        told = copy.process is not None and copy.process.returncode != 0 and "may not be copied" in copy.log
        stayed = all_held(self._swarm, self._door)
        async with any_number_of_streams() as client:
            answers = [
                await hear(client, door.url, asking(self._swarm, 3, 60)) for door in self._swarm.nodes[:2]
            ]
        self._equal("F22", "answers afterwards whole and equal", answers, text)
        self._below("F22", "incarnation lost: routable after it says its name", lost, 3.0)
        self._note(
            "F22", "nothing lost / its own address as bootstrap", "", in_seconds(plain, by_itself), None
        )
        self._note("F22", "a copied folder: ends with a clear error", "yes", "yes" if told else "no", told)
        self._note("F22", "the original in service beside it", "yes", "yes" if stayed else "no", stayed)

    async def _back_again(self, victim: NodeProcess, change: Callable[[], None] = lambda: None) -> float:
        """Kill and start a holder; return the seconds from its first line in the log until the door routes to it."""

        def again() -> float:
            victim.kill()
            change()
            wait_for("the loss to be seen", lambda: not all_held(self._swarm, self._door))
            told = victim.log.count("\nNode ") + victim.log.startswith("Node ")
            victim.start()
            wait_for("its name", lambda: victim.log.count("\nNode ") + victim.log.startswith("Node ") > told)
            named = time.monotonic()
            wait_for("it to be back", lambda: all_held(self._swarm, self._door))
            return time.monotonic() - named

        return await asyncio.to_thread(again)


@contextmanager
def load_rows(model: str) -> Iterator[LoadRows]:
    """Two front doors and two holders of each half."""
    with swarm_of(["none", "none", *SPANS, *SPANS], model=model, settings=SETTINGS) as swarm:
        for door in swarm.nodes[:2]:
            wait_for("two holders of each half", lambda door=door: all_held(swarm, door))  # type: ignore[misc]
        yield LoadRows(swarm)
