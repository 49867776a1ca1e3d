"""Sending to a node wherever it is: over its link, over one opened for it, or to this process itself.

Of the messages it knows one thing: OpenSession begins a conversation, so it is worth a dial.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from swarm.errors import LinkDownError, ProtocolError, SwarmError
from swarm.net.peers import Network
from swarm.protocol.messages import AnyMessage, OpenSession
from swarm.types import NodeId, short

if TYPE_CHECKING:
    Payload = bytes | bytearray | memoryview

log = logging.getLogger("swarm.node")

Deliver = Callable[[NodeId, AnyMessage, memoryview], None]
MOST_WAITING = 64
"""Messages that wait for one link to open; more would be a peer of ours that never stops talking to a wall."""


class Bus:
    """Frames to others go to the network, to oneself to ``deliver``: in order, one after the other.

    ``connect`` opens a link or raises SwarmError; ``unreachable`` is told of a node that none could be opened to.
    """

    def __init__(
        self,
        node: NodeId,
        network: Network,
        deliver: Deliver,
        *,
        connect: Callable[[NodeId], Awaitable[None]],
        unreachable: Callable[[NodeId], None],
        spawn: Callable[[Awaitable[None]], object],
    ) -> None:
        self._node = node
        self._network = network
        self._deliver = deliver
        self._connect = connect
        self._unreachable = unreachable
        self._spawn = spawn
        self._own: deque[tuple[AnyMessage, memoryview]] = deque()
        self._delivering = False
        self._waiting: dict[NodeId, list[tuple[AnyMessage, Payload]]] = {}

    def send(self, node: NodeId, message: AnyMessage, payload: Payload = b"") -> None:
        """Send without waiting; OpenSession, and what follows it, after a link is opened if there is none.

        Raises LinkDownError when there is no link and none is being opened.
        """
        waiting = self._waiting.get(node)
        if node == self._node:
            self._own.append((message, memoryview(payload)))
            self._drain()
        elif waiting is not None:
            if len(waiting) >= MOST_WAITING:
                raise LinkDownError(node, "its link does not open")
            waiting.append((message, payload))
        elif isinstance(message, OpenSession) and not self._network.linked(node):
            self._waiting[node] = [(message, payload)]
            self._spawn(self._open(node))
        else:
            self._network.send(node, message, payload)

    async def _open(self, node: NodeId) -> None:
        try:
            await self._connect(node)
            for message, payload in self._waiting[node]:
                self._network.send(node, message, payload)
        except SwarmError as exc:
            log.info("no link to %s: %s", short(node), exc)
            del self._waiting[node]
            self._unreachable(node)
        else:
            del self._waiting[node]

    def _drain(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._own:
                message, payload = self._own.popleft()
                try:
                    self._deliver(self._node, message, payload)
                except ProtocolError as exc:
                    # An origin that lies can have this node send itself what may not be; there is no link to close.
                    log.warning("dropped a %s of this node to itself: %s", type(message).__name__, exc)
        finally:
            self._delivering = False

    def linked(self, node: NodeId) -> bool:
        return node == self._node or self._network.linked(node)
