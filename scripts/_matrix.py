"""What all rows of scripts/fault_matrix.py have: numbers found beside those to reach, and undisturbed answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.pressure import wait_at_rest
from tests.support.streams import Heard, hear
from tests.support.swarm_process import SwarmProcesses


@dataclass
class Number:
    """One measured number beside the one to reach; ``good`` is None where the matrix names no bound."""

    row: str
    what: str
    wanted: str
    found: str
    good: bool | None


class Rows:
    """A swarm under test whose first node is the front door; subclasses have one method a row."""

    def __init__(self, swarm: SwarmProcesses) -> None:
        self._swarm = swarm
        self._door = swarm.nodes[0]
        self.numbers: list[Number] = []

    def rest(self) -> None:
        """Wait until no node holds anything for anybody."""
        wait_at_rest(self._swarm, 60)

    def _note(self, row: str, what: str, wanted: str, found: str, good: bool | None) -> None:
        self.numbers.append(Number(row, what, wanted, found, good))
        print(f"{row} {what}: {found}", flush=True)

    def _below(self, row: str, what: str, seconds: float | None, bound: float) -> None:
        found = "never" if seconds is None else f"{seconds:.2f} s"
        self._note(row, what, f"< {bound:g} s", found, seconds is not None and seconds < bound)

    def _equal(self, row: str, what: str, answers: list[Heard], text: str) -> None:
        """Note how many answers are whole and have that text."""
        equal = sum(heard.whole and heard.text == text for heard in answers)
        self._note(row, what, "all", f"{equal} of {len(answers)}", equal == len(answers))

    async def _undisturbed(self, client: httpx.AsyncClient, body: dict[str, Any]) -> str:
        heard = await hear(client, self._door.url, body)
        if not heard.whole:
            raise RuntimeError(f"an undisturbed answer failed: {heard}")
        return heard.text


def any_number_of_streams() -> httpx.AsyncClient:
    return httpx.AsyncClient(limits=httpx.Limits(max_connections=None))


def in_seconds(*values: float) -> str:
    return " / ".join(f"{value:.2f} s" for value in values)


def table(numbers: list[Number]) -> str:
    verdicts = {True: "yes", False: "**no**", None: ""}
    lines = ["| row | what | to reach | found | reached |", "|---|---|---|---|---|"]
    lines += [f"| {n.row} | {n.what} | {n.wanted} | {n.found} | {verdicts[n.good]} |" for n in numbers]
    return "\n".join(lines)
