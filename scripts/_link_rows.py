"""F3 and F8 of the fault matrix: links that become black holes, between two nodes or between two halves of a swarm."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import psutil

from _matrix import Rows, any_number_of_streams
from tests.support.pressure import SPANS, all_held, asking
from tests.support.slow_link import HoledLinks, Way
from tests.support.streams import Heard, hear
from tests.support.swarm_process import NodeProcess, SwarmProcesses, wait_for

PARTED_SECONDS = 60.0
HOLES: dict[str, Callable[[int, int, int], set[Way]]] = {
    "door and hop, both ways": lambda door, hop, _: {(door, hop), (hop, door)},
    "door to hop": lambda door, hop, _: {(door, hop)},
    "hop to door": lambda door, hop, _: {(hop, door)},
    "hop and next hop, both ways": lambda _, hop, after: {(hop, after), (after, hop)},
    "hop to next hop": lambda _, hop, after: {(hop, after)},
    "next hop to hop": lambda _, hop, after: {(after, hop)},
}
"""Who hears whom no more, by the ports of the door, the first hop and the second."""


class LinkRows(Rows):
    """Every link goes through a proxy that can swallow what is sent one way or both."""

    @property
    def _links(self) -> HoledLinks:
        return cast(HoledLinks, self._swarm.slow_links)

    async def f3(self) -> None:
        """A link under an answer swallows everything; the answer, and one asked meanwhile, go on around it."""
        body = asking(self._swarm, 1, 600, words=40)
        async with any_number_of_streams() as client:
            text = await self._undisturbed(client, body)
            for name, ways in HOLES.items():
                await self._hole(client, body, text, name, ways)

    async def _hole(
        self,
        client: httpx.AsyncClient,
        body: dict[str, Any],
        text: str,
        name: str,
        ways: Callable[[int, int, int], set[Way]],
    ) -> None:
        began: list[float] = []

        def open_hole(count: int, heard: Heard) -> None:
            if count == 50 and not began:
                hops = [self._swarm.on_route(heard.route, layer).listen for layer in (1, 4)]
                began.append(time.time())
                self._links.swallow(ways(self._door.listen, *hops))

        heard = await hear(client, self._door.url, body, open_hole)
        beside = await hear(client, self._door.url, body)
        left = next((at - began[0] for at in self._door.reroutes if at >= began[0] - 0.002), None)
        healed = time.monotonic()
        self._links.heal()
        await asyncio.to_thread(wait_for, "all holders", lambda: all_held(self._swarm, self._door))
        back = time.monotonic() - healed
        self._equal("F3", f"{name}: answers whole and equal", [heard, beside], text)
        if left is None and heard.pause < 1.0:
            self._note("F3", f"{name}: left", "", "nothing had to be", None)
        else:
            self._below("F3", f"{name}: detected and left", left, 3.5)
        self._note("F3", f"{name}: longest pause", "", f"{heard.pause:.2f} s", None)
        self._note("F3", f"{name}: all routable after it heals", "", f"{back:.2f} s", None)

    async def f8(self) -> None:
        """A door and a holder of each half on either side of a partition for a minute."""
        sides = (
            self._swarm.nodes[0:1] + self._swarm.nodes[2:4],
            self._swarm.nodes[1:2] + self._swarm.nodes[4:6],
        )
        body = asking(self._swarm, 2, 300, words=40)
        parted = True
        answers: list[Heard] = []
        refused: list[Heard] = []

        async def ask_on(door: NodeProcess) -> None:
            async with any_number_of_streams() as client:
                while parted:
                    heard = await hear(client, door.url, body)
                    (refused if heard.status in (429, 503) else answers).append(heard)

        async with any_number_of_streams() as client:
            text = await self._undisturbed(client, body)
        workers = [asyncio.create_task(ask_on(side[0])) for side in sides]
        await asyncio.sleep(1.0)
        self._links.swallow({(a.listen, b.listen) for a in sides[0] for b in sides[1]})
        self._links.swallow({(b.listen, a.listen) for a in sides[0] for b in sides[1]})
        await asyncio.sleep(PARTED_SECONDS)
        seen = [self._members(side[0]) for side in sides]
        healed = time.monotonic()
        self._links.heal()
        await asyncio.to_thread(wait_for, "equal views", self._agreed)
        agreed = time.monotonic() - healed
        parted = False
        await asyncio.gather(*workers)
        self._equal("F8", "answers on both sides whole and equal", answers, text)
        self._note("F8", "answers refused", "0", str(len(refused)), not refused)
        self._note("F8", "longest pause", "", f"{max(heard.pause for heard in answers):.2f} s", None)
        alone = [len(view) for view in seen]
        self._note("F8", "members that each side routes to at the end", "3, 3", str(alone), alone == [3, 3])
        self._below("F8", "equal views of all six after it heals", agreed, 5.0)

    def _members(self, node: NodeProcess) -> set[tuple[str, str]]:
        """The members that a node gives sessions to, and what it says of their health."""
        _, state = node.get("/swarm/state")
        members = state["members"] if state else []
        return {(member["node"], member["health"]) for member in members if member["routable"]}

    def _agreed(self) -> bool:
        views = [self._members(node) for node in self._swarm.nodes]
        return len(views[0]) == len(views) and all(view == views[0] for view in views)


@contextmanager
def link_rows(model: str) -> Iterator[LinkRows]:
    """Two front doors and two holders of each half, reached by proxies only."""
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        swarm = SwarmProcesses(Path(folder), model=model)
        swarm.slow_links = HoledLinks(lambda source: _owner(swarm, source))
        try:
            for span in ("none", "none", *SPANS, *SPANS):
                swarm.add(span)
            swarm.wait_servable()
            for door in swarm.nodes[:2]:
                wait_for("two holders of each half", lambda door=door: all_held(swarm, door))  # type: ignore[misc]
            yield LinkRows(swarm)
        finally:
            swarm.stop()
            swarm.slow_links.close()


def _owner(swarm: SwarmProcesses, source: int) -> int:
    """Return the listening port of the node that a connection comes from; 0 if none has it any more."""
    for node in swarm.nodes:
        if node.process is None or node.process.poll() is not None:
            continue
        try:
            connections = psutil.Process(node.pid).net_connections("tcp")
        except psutil.Error:
            continue
        if any(one.laddr and one.laddr.port == source for one in connections):
            return node.listen
    return 0
