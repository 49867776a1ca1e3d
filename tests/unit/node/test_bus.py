"""Messages to oneself: in order, and never inside one another."""

from __future__ import annotations

from typing import Any, cast

from swarm.errors import ProtocolError
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


def test_what_may_not_be_sent_to_oneself_is_dropped_and_what_follows_it_is_not(caplog) -> None:
    """A path that an origin has go twice over this node may have its second hop refuse what the first sends."""
    receiver = Receiver()
    deliver, receiver.log = receiver.bus._deliver, []

    def refuse(node: NodeId, message: AnyMessage, payload: memoryview) -> None:
        if cast(Probe, message).nonce == 3:
            raise ProtocolError("not here")
        deliver(node, message, payload)

    receiver.bus._deliver = refuse
    receiver.bus.send(ME, Probe(1))
    assert receiver.log == ["begin 1", "end 1", "begin 4", "end 4"]
    assert "not here" in caplog.text
