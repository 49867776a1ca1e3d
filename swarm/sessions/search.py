"""What to avoid and when to give up, while an answer looks for a path. Pure; finds no path itself."""

from __future__ import annotations

from swarm.errors import OverloadedError, SwarmError
from swarm.protocol.messages import Hop
from swarm.sessions.effects import Edge, FindPath
from swarm.types import NodeId

MAX_FRUITLESS_RECOVERIES = 3
MAX_GAPS = 2


class PathSearch:
    """Remembers, since the last accepted token, which nodes and edges failed and how often."""

    def __init__(self) -> None:
        self.last_error: SwarmError | None = None
        self._nodes: set[NodeId] = set()
        self._edges: set[Edge] = set()
        self._attempts = 0
        self._fruitless = 0
        self._gaps = 0
        self._late = False
        self._accusers: set[NodeId] = set()

    @property
    def waits_for_room(self) -> bool:
        return isinstance(self.last_error, OverloadedError)

    @property
    def exhausted(self) -> bool:
        """A request that fails on path after path must not walk through every replica."""
        return self._fruitless > MAX_FRUITLESS_RECOVERIES

    @property
    def afresh(self) -> bool:
        """What hops hold has proved to be of no use: the next path begins with nothing."""
        return self._gaps > MAX_GAPS

    def wish(self, held: tuple[Hop, ...] = ()) -> FindPath:
        self._attempts += 1
        return FindPath(frozenset(self._nodes), frozenset(self._edges), self._attempts, held)

    def gap(self) -> None:
        """A hop could not replay what it had said it could."""
        self._gaps += 1

    def begin_afresh(self) -> None:
        self._gaps = MAX_GAPS + 1

    def first_late(self) -> bool:
        """Return whether this is the first late step since the last accepted token."""
        first, self._late = not self._late, True
        return first

    def avoid(self, *nodes: NodeId) -> None:
        self._nodes.update(nodes)

    def avoid_edge(self, edge: Edge) -> None:
        self._edges.add(edge)

    def accused(self, accuser: NodeId, other: NodeId) -> NodeId:
        """Return who is to be avoided of the two: who accuses one neighbour after the other is believed once."""
        if accuser in self._accusers:
            return accuser
        self._accusers.add(accuser)
        return other

    def failed(self, error: SwarmError) -> None:
        """A path failed, or refused. Being full is no fault: only time and the deadline bound that."""
        self.last_error = error
        if not isinstance(error, OverloadedError):
            self._fruitless += 1

    def missing(self, error: SwarmError) -> bool:
        """No path fits the wish. Return whether something was avoided that may be tried again later."""
        avoided = bool(self._nodes or self._edges)
        self._nodes.clear()
        self._edges.clear()
        if not avoided and not self.waits_for_room:
            self.last_error = error
        return avoided

    def progressed(self) -> None:
        """A token was accepted over the path: what failed before it counts no more."""
        self._nodes.clear()
        self._edges.clear()
        self._fruitless = 0
        self._gaps = 0
        self._late = False
        self._accusers.clear()
