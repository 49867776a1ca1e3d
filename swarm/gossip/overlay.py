"""Who is to be linked: everybody in a small swarm, a few at random in a large one. Opens and closes no link itself.

The large form is HyParView's active view (Leitão, Pereira, Rodrigues, DSN 2007): few links, both ends count them, who
has too few opens some, who has too many closes some. Its passive view, its shuffles and its forwarded joins are left
out: they would carry samples of what every node holds whole, the signed records of all members.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarm.gossip.core import Core
from swarm.gossip.effects import Close
from swarm.gossip.member import Entry, Health
from swarm.types import Address, NodeId

MESH_AGAIN = 0.7
"""Below that share of ``mesh_members`` everybody links to everybody again: 28 of 40."""
FEWEST = 6
ACTIVE = 8
"""Below FEWEST trusted links new ones are opened, up to ACTIVE of them."""
MOST = 12
"""Above, links are closed: a swarm in which all hold between FEWEST and MOST changes no link."""
CLOSES_PER_SECOND = 2.0
SURPLUS_PER_SECOND = 1 / 8
"""Of the links that are too many, if that is more: a bootstrap node that a thousand joined by has as many."""
YOUNG_SECONDS = 3.0
"""A link that new has perhaps not brought its peer what it came for, and is kept."""
DECLINED_SECONDS = 30.0
"""Who closed a link for having too many, or could not be reached, is not dialled for so long."""
CHOICE_SECONDS = 0.25
"""A large swarm that forms changes its view all the time; links are chosen anew that often at most."""
GROWING_SECONDS = 1.0
"""Who hears of a new member that often is perhaps in a large swarm that forms, and opens no more links than it needs
there: of those to all whom it heard of first, most would be closed again."""
LOST_PAUSE_SECONDS = 2.0
LOST_EAGER_SECONDS = 300.0
LOST_MAX_PAUSE_SECONDS = 30.0
MOST_LOST = 40
"""Up to so many of the dead are all dialled in a mesh, in turns of their own; of more, one at a time."""


@dataclass(slots=True)
class Turn:
    """One dead member at a time gets a dial: it may live behind a partition that has healed."""

    next_at: float
    node: NodeId | None = None
    until: float = 0.0


class Overlay:
    """The wishes of one node. ``carries`` says whether a link carries a session now: such a link is never closed."""

    def __init__(self, core: Core, carries: Callable[[NodeId], bool], now: float) -> None:
        self._core = core
        self._carries = carries
        self._candidates: list[NodeId] = []
        self._declined: dict[NodeId, float] = {}
        self._closing: set[NodeId] = set()
        self._closed_at = now
        self._turn = Turn(now + LOST_PAUSE_SECONDS)
        self._seen = (-1, -1)
        self._wanted: dict[NodeId, tuple[Address, ...]] = {}
        self._chosen_at = now
        self._expires = now
        self._members = 1
        self._grown_at = now

    @property
    def partial(self) -> bool:
        """Whether this node links to a few members only."""
        return self._core.partial

    def linked(self, node: NodeId) -> None:
        self._declined.pop(node, None)
        self._forget(node)

    def lost(self, node: NodeId, graceful: bool, now: float) -> None:
        """A link ended. Who closed it in good order has enough of them; one that broke is worth a dial at once."""
        self._closing.discard(node)
        entry = self._core.table.get(node)
        if entry is None or entry.gone:
            return
        if graceful:
            self._declined[node] = now + DECLINED_SECONDS * (1 + self._core.rng.random())
        elif self.partial:
            self._candidates.insert(0, node)
        self._expires = now

    def failed(self, node: NodeId, now: float) -> None:
        """A dial to ``node`` came to nothing: somebody else will do."""
        if self._turn.node == node:
            self._turn.node = None
        if node in self._candidates:
            self._forget(node)
            self._declined[node] = now + DECLINED_SECONDS
            self._expires = now

    def wanted(self, now: float) -> dict[NodeId, tuple[Address, ...]]:
        """Return the members to dial, with their addresses. The same object as long as nothing changed."""
        core = self._core
        seen = (core.table.version, core.links.version)
        pause = CHOICE_SECONDS if self.partial and seen[1] == self._seen[1] else 0.0
        if now >= self._expires or (seen != self._seen and now >= self._chosen_at + pause):
            self._seen, self._chosen_at, self._expires = seen, now, now + 1.0
            self._wanted = {
                entry.node: entry.static.record.addresses
                for entry in self._choice(now)
                if entry.node != core.node and entry.node not in core.links
            }
        return self._wanted

    def room(self, now: float) -> float:
        """Return how many more links to open for now: a mesh that grows has no more than an overlay."""
        if self.partial or now - self._grown_at >= GROWING_SECONDS:
            return float("inf")
        return ACTIVE - len(self._core.links)

    def _choice(self, now: float) -> list[Entry]:
        core = self._core
        self._switch(now)
        self._declined = {node: until for node, until in self._declined.items() if now < until}
        if self.partial:
            self._choose()
            entries = [core.table.entries[node] for node in self._candidates]
        else:
            alone = not core.links.nodes()
            entries = [e for e in core.table.present() if alone or e.node not in self._declined]
        return entries + self._lost(now)

    def close_surplus(self, now: float) -> None:
        """Close links of which there are too many, at a bounded rate, the young and the busy never."""
        core = self._core
        surplus = len(core.links) - len(self._closing) - MOST
        if not self.partial or surplus <= 0:
            self._closed_at = now
            return
        rate = max(CLOSES_PER_SECOND, surplus * SURPLUS_PER_SECOND)
        count = min(int((now - self._closed_at) * rate), surplus)
        if count <= 0:
            return
        self._closed_at = now
        old = [
            link.node
            for link in core.links.all()
            if now - link.up_at >= YOUNG_SECONDS and link.node not in self._closing
        ]
        for node in core.rng.sample(old, len(old)):
            if count and not self._carries(node):
                count -= 1
                self._closing.add(node)
                core.emit(Close(node))

    def _switch(self, now: float) -> None:
        members, limit = len(self._core.table.present()), self._core.settings.mesh_members
        if members > self._members:
            self._grown_at = now
        self._members = members
        if members > limit:
            self._core.partial = True
        elif members < limit * MESH_AGAIN and self.partial:
            self._core.partial = False
            self._candidates.clear()
            self._declined.clear()

    def _choose(self) -> None:
        """Fill the candidates up with members at random, if there are too few links."""
        core = self._core
        linked = core.links.trusted()
        known = core.table.entries
        usable = [n for n in self._candidates if n in known and not known[n].gone and n not in core.links]
        self._candidates = list(dict.fromkeys(usable))
        if len(linked) + len(self._candidates) >= FEWEST:
            return
        missing = ACTIVE - len(linked) - len(self._candidates)
        others = [
            entry.node
            for entry in core.table.present()
            if entry.node != core.node and entry.node not in core.links and entry.node not in self._candidates
        ]
        willing = [node for node in others if node not in self._declined]
        if len(willing) < missing:
            willing = others
        self._candidates += core.rng.sample(willing, min(missing, len(willing)))

    def _lost(self, now: float) -> list[Entry]:
        """Return the dead that are worth a dial now."""
        core, turn = self._core, self._turn
        dead = [entry for entry in core.table.entries.values() if entry.health is Health.DEAD]
        if not dead:
            return []
        if not self.partial and len(dead) <= MOST_LOST:
            return sorted(dead, key=lambda entry: entry.node)
        if turn.node is not None and now >= turn.until:
            turn.node = None
        if turn.node is None and now >= turn.next_at:
            age = now - max(entry.verdict_at for entry in dead)
            pause = LOST_PAUSE_SECONDS * 2 ** max(0.0, age / LOST_EAGER_SECONDS - 1)
            turn.next_at = now + min(pause, LOST_MAX_PAUSE_SECONDS) * (1 + 0.5 * core.rng.random())
            turn.node = core.rng.choice(sorted(entry.node for entry in dead))
            turn.until = turn.next_at
        chosen = core.table.get(turn.node) if turn.node is not None else None
        return [chosen] if chosen is not None and chosen.health is Health.DEAD else []

    def _forget(self, node: NodeId) -> None:
        if node in self._candidates:
            self._candidates.remove(node)
        if self._turn.node == node:
            self._turn.node = None
