"""Sending to a node wherever it is: over its link, or to this process itself. Knows no message's meaning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from swarm.net.peers import Network
from swarm.protocol.messages import AnyMessage
from swarm.types import NodeId

if TYPE_CHECKING:
    Payload = bytes | bytearray | memoryview

Deliver = Callable[[NodeId, AnyMessage, memoryview], None]


class Bus:
    """Frames to others go to the network, to oneself to ``deliver`` on the loop's next turn, in order."""

    def __init__(self, node: NodeId, network: Network, deliver: Deliver) -> None:
        self._node = node
        self._network = network
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()

    def send(self, node: NodeId, message: AnyMessage, payload: Payload = b"") -> None:
        """Send without waiting. Raises LinkDownError when there is no link."""
        if node == self._node:
            self._loop.call_soon(self._deliver, node, message, memoryview(payload))
        else:
            self._network.send(node, message, payload)

    def linked(self, node: NodeId) -> bool:
        return node == self._node or self._network.linked(node)
