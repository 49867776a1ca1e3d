"""F9 of the fault matrix: packets between nodes take 50 ms and are lost by chance, and nobody is given up for it."""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _matrix import Rows, any_number_of_streams
from tests.support.lossy_net import LossyNet, inside
from tests.support.pressure import SPANS, asking
from tests.support.streams import Heard, hear
from tests.support.swarm_process import NodeProcess, SwarmProcesses, wait_for

LOSS = 0.05
ONE_WAY_SECONDS = 0.05
SUSPECT = re.compile(r"the link to \S+ is suspect")
GONE = re.compile(r" is gone$", re.MULTILINE)


class LossyRows(Rows):
    """A front door and two holders of each half, each in a network of its own."""

    def __init__(self, swarm: SwarmProcesses, net: LossyNet, minutes: float) -> None:
        super().__init__(swarm)
        self._minutes = minutes
        self._net = net

    def rest(self) -> None:
        """What the front door holds can't be asked from here."""

    async def f9(self) -> None:
        """Answers one after the other for some minutes, over links of 100 ms there and back that lose 5 %."""
        await asyncio.to_thread(inside, self._net.names[0], lambda: asyncio.run(self._answers()))

    async def _answers(self) -> None:
        body = asking(self._swarm, 1, 40, words=20)
        answers: list[Heard] = []
        async with any_number_of_streams() as client:
            text = await self._undisturbed(client, body)
            before = self._counts()
            sent, lost = self._net.sent, self._net.lost
            began = time.monotonic()
            while time.monotonic() < began + self._minutes * 60:
                answers.append(await hear(client, self._door.url, body))
            took = time.monotonic() - began
        suspected, dead = (now - then for now, then in zip(self._counts(), before, strict=True))
        reroutes = sum(at >= time.time() - took for at in self._door.reroutes)
        nodes = len(self._swarm.nodes)
        ends_hours = nodes * (nodes - 1) * took / 3600
        sent, lost = self._net.sent - sent, self._net.lost - lost
        self._equal("F9", "answers whole and equal", answers, text)
        self._note("F9", "packets lost", "5 %", f"{lost / max(1, sent):.1%} of {sent}", None)
        self._note("F9", "members held dead", "0", str(dead), dead == 0)
        bound = 2 * ends_hours / 2
        found = f"{suspected} by either end in {ends_hours / 2:.2f} link-hours"
        self._note("F9", "links doubted", f"<= {bound:.1f}", found, suspected <= bound)
        self._note("F9", "answers that took another path", "", f"{reroutes} of {len(answers)}", None)
        pauses = max(heard.pause for heard in answers)
        self._note("F9", "longest pause", "", f"{pauses:.2f} s", None)

    def _counts(self) -> tuple[int, int]:
        logs = [node.log for node in self._swarm.nodes]
        return sum(len(SUSPECT.findall(log)) for log in logs), sum(len(GONE.findall(log)) for log in logs)


@contextmanager
def lossy_rows(model: str, minutes: float) -> Iterator[LossyRows]:
    """Start it; needs Linux and root."""
    spans = ("none", *SPANS, *SPANS)
    net = LossyNet(len(spans), one_way_seconds=ONE_WAY_SECONDS, loss=LOSS)
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        swarm = SwarmProcesses(Path(folder), model=model)
        try:
            for index, span in enumerate(spans):
                node = swarm.add(span, start=False, api=index == 0)
                _move(node, swarm, net, index)
                node.start()
            door = swarm.nodes[0]

            def held() -> bool:
                return all(swarm.holders(door, span) == 2 for span in SPANS)

            inside(net.names[0], lambda: wait_for("two holders of each half", held))
            yield LossyRows(swarm, net, minutes)
        finally:
            swarm.stop()
            net.close()


def _move(node: NodeProcess, swarm: SwarmProcesses, net: LossyNet, index: int) -> None:
    """Have a node run in its namespace, with the addresses that are there; its front door stays on its loopback."""
    addresses = {
        f"127.0.0.1:{other.listen}": f"{net.address(at)}:{other.listen}"
        for at, other in enumerate(swarm.nodes)
    }
    node.arguments = [addresses.get(argument, argument) for argument in node.arguments]
    node.program = ("ip", "netns", "exec", net.names[index], sys.executable, "-m", "swarm")
