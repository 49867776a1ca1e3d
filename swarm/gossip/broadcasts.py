"""News waiting to be spread: who gets what, in messages of a bounded size. Knows no versions and no links' health.

The subject tells all its neighbours itself. Who hears news from another passes it on to a few at random: enough to get
around a broken link, and anti-entropy finds what both miss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from swarm.protocol.messages import Gossip, SignedRecord, SignedSuspicion
from swarm.types import NodeId

RELAY_FANOUT = 8
LOAD_FANOUT = 1
OVERLAY_LOAD_FANOUT = 3
"""In a mesh the subject tells everybody itself. In a simulated overlay of 100, passing on to 1 brought a load record to
39 to 63 members within a second, to 3 to 97 for twice the bytes, to 8 (all) to 100 for five times."""
GATHER_SECONDS = 0.02
"""News waits that long for company: a joining swarm then sends few messages instead of thousands."""
MAX_GOSSIP_BYTES = 48 * 1024

_T = TypeVar("_T")


class Random(Protocol):
    """What gossip needs of a source of chance: ``random.Random`` fits."""

    def random(self) -> float: ...
    def sample(self, population: Sequence[_T], k: int) -> list[_T]: ...
    def choice(self, seq: Sequence[_T]) -> _T: ...


@dataclass(frozen=True, slots=True)
class News:
    """One item. ``knowing`` have it already; ``always`` gets it whatever chance says; fanout None is everybody."""

    item: SignedRecord | SignedSuspicion
    fanout: int | None
    knowing: frozenset[NodeId] = frozenset()
    always: NodeId | None = None


class Broadcasts:
    """Items by key: a newer version of a record replaces the one still waiting."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, ...], News] = {}
        self._due = float("inf")

    def add(self, key: tuple[str, ...], news: News, now: float) -> None:
        if not self._waiting:
            self._due = now + GATHER_SECONDS
        self._waiting[key] = news

    def wakeup(self) -> float:
        return self._due

    def flush(self, now: float, neighbours: Sequence[NodeId], rng: Random) -> list[tuple[NodeId, Gossip]]:
        """Return the messages to send, if any are due. ``neighbours`` is sorted."""
        if now < self._due:
            return []
        self._due = float("inf")
        waiting, self._waiting = self._waiting, {}
        outgoing: dict[NodeId, list[SignedRecord | SignedSuspicion]] = {}
        for news in waiting.values():
            targets = [node for node in neighbours if node not in news.knowing]
            if news.fanout is not None and len(targets) > news.fanout:
                chosen = rng.sample(targets, news.fanout)
                targets = chosen + [node for node in targets if node == news.always and node not in chosen]
            for node in targets:
                outgoing.setdefault(node, []).append(news.item)
        return [(node, message) for node, items in sorted(outgoing.items()) for message in packed(items)]


def packed(items: Iterable[SignedRecord | SignedSuspicion]) -> list[Gossip]:
    """Split items, in order, into messages that fit a frame."""
    messages: list[Gossip] = []
    records: list[SignedRecord] = []
    claims: list[SignedSuspicion] = []
    size = 0
    for item in items:
        cost = len(item.body) + len(item.signature) + 16
        if size and size + cost > MAX_GOSSIP_BYTES:
            messages.append(Gossip(tuple(records), tuple(claims)))
            records, claims, size = [], [], 0
        size += cost
        if isinstance(item, SignedRecord):
            records.append(item)
        else:
            claims.append(item)
    if size:
        messages.append(Gossip(tuple(records), tuple(claims)))
    return messages
