"""Where an answer may have KV, so that every hop is released once it is not needed. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from swarm.protocol.messages import CloseSession, Hop
from swarm.sessions.effects import Send
from swarm.types import NodeId, SessionId


class OpenHops:
    """Hops that were asked to take part and not released since, each with the epoch and place it knows."""

    def __init__(self, origin: NodeId, session: SessionId) -> None:
        self._origin = origin
        self._session = session
        self._hops: dict[Hop, tuple[int, int]] = {}

    @property
    def held(self) -> tuple[Hop, ...]:
        """The hops in the order of their layers."""
        return tuple(sorted(self._hops, key=lambda hop: hop.span))

    @property
    def nodes(self) -> frozenset[NodeId]:
        return frozenset(hop.node for hop in self._hops)

    def opening(self, hops: Iterable[Hop], epoch: int, places: Iterable[int] | None = None) -> None:
        """Some places of a path, or all, are asked to take part under an epoch."""
        path = tuple(hops)
        for place in range(len(path)) if places is None else places:
            self._hops[path[place]] = (epoch, place)

    def release(self, nodes: Iterable[NodeId], blocks: tuple[bytes, ...]) -> list[Send]:
        """Say goodbye to nodes, wherever on them this answer is."""
        gone = frozenset(nodes)
        return self._close([hop for hop in self._hops if hop.node in gone], blocks)

    def release_all_but(self, hops: Iterable[Hop], blocks: tuple[bytes, ...]) -> list[Send]:
        kept = frozenset(hops)
        return self._close([hop for hop in self._hops if hop not in kept], blocks)

    def _close(self, hops: list[Hop], blocks: tuple[bytes, ...]) -> list[Send]:
        sends = []
        for hop in sorted(hops, key=lambda hop: (hop.node, hop.span)):
            epoch, place = self._hops.pop(hop)
            sends.append(Send(hop.node, CloseSession(self._origin, self._session, epoch, blocks, place)))
        return sends
