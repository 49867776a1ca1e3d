"""Whom to answer next: requests for weights of all members, a few each, in turn. Reads no file and no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from swarm.protocol.messages import WantWeights
from swarm.types import NodeId

OPEN_REQUESTS = 4
"""Of one member at once."""


class Serving:
    """The requests that wait. Members take turns, each one's own are answered in their order."""

    def __init__(self) -> None:
        self._waiting: dict[NodeId, deque[WantWeights]] = {}

    def ask(self, node: NodeId, want: WantWeights) -> bool:
        """Take a request; False when the member has OPEN_REQUESTS waiting already."""
        waiting = self._waiting.setdefault(node, deque())
        if len(waiting) >= OPEN_REQUESTS:
            return False
        waiting.append(want)
        return True

    def next(self, ready: Callable[[NodeId], bool]) -> tuple[NodeId, WantWeights] | None:
        """Return whom to answer now, among those whose link takes more; that member's turn is then over."""
        for node in list(self._waiting):
            if ready(node):
                waiting = self._waiting.pop(node)
                want = waiting.popleft()
                if waiting:
                    self._waiting[node] = waiting  # at the end: the others come first
                return node, want
        return None

    def gone(self, node: NodeId) -> None:
        self._waiting.pop(node, None)

    @property
    def idle(self) -> bool:
        return not self._waiting
