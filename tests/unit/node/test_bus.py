"""Messages to oneself: in order, and never inside one another."""

from __future__ import annotations

from typing import Any, cast

from swarm.net.peers import Network
from swarm.node.bus import Bus
from swarm.protocol.messages import AnyMessage, Probe
from swarm.types import NodeId

ME = NodeId("me")


class Receiver:
    """Answers each of its first messages with two more while it is still at work on it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.bus = Bus(
            ME,
            cast(Network, None),
            self.deliver,
            connect=cast(Any, None),
            unreachable=cast(Any, None),
            spawn=cast(Any, None),
        )

    def deliver(self, node: NodeId, message: AnyMessage, payload: memoryview) -> None:
        nonce = cast(Probe, message).nonce
        self.log.append(f"begin {nonce}")
        if nonce < 3:
            self.bus.send(ME, Probe(2 * nonce + 1))
            self.bus.send(ME, Probe(2 * nonce + 2))
        self.log.append(f"end {nonce}")


def test_a_message_to_oneself_is_delivered_at_once_and_after_those_sent_before() -> None:
    receiver = Receiver()
    receiver.bus.send(ME, Probe(1))
    order = [1, 3, 4]
    assert receiver.log == [f"{what} {nonce}" for nonce in order for what in ("begin", "end")]
