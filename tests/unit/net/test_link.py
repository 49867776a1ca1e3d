"""One link over a connection that a test holds in its hands: priorities, credits, probes, overflow."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from swarm.config import NetSettings
from swarm.errors import LinkDownError, ProtocolError
from swarm.net.connection import Connection, Sink
from swarm.net.link import Link, PeerInfo
from swarm.protocol.codec import FrameDecoder, encode
from swarm.protocol.limits import MAX_CREDIT_BYTES, MAX_PART_BYTES, CloseCode
from swarm.protocol.messages import AnyMessage, Credit, Heartbeat, Probe, ProbeAnswer, Step, Weights
from swarm.types import Address, BootId, NodeId, SessionId

PEER = PeerInfo(NodeId("p" * 32), bytes(32), BootId(bytes(8)), None, None, Address("192.0.2.1", 1), None)
WINDOW = 4 * MAX_PART_BYTES


class HeldConnection:
    """Stands for a socket: keeps the frames written, and takes more only while ``writable``."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.writable = True
        self.closing = False
        self.buffered_bytes = 0
        self.room: int | None = None
        """How many more frames the socket takes before it is full; None: any number."""

    def write(self, frame: bytes) -> None:
        self.written.append(frame)
        if self.room is not None:
            self.room -= 1
            self.writable = self.room > 0

    def go_live(self, sink: Sink) -> None:
        self.sink = sink

    def close(self, code: int) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


class Owner:
    def __init__(self) -> None:
        self.messages: list[AnyMessage] = []
        self.errors: list[ProtocolError] = []
        self.losses: list[tuple[str, bool]] = []
        self.drains = 0

    def drained(self, link: Link) -> None:
        self.drains += 1

    def received(self, node: NodeId, message: AnyMessage, payload: memoryview) -> None:
        self.messages.append(message)

    def misbehaved(self, link: Link, error: ProtocolError) -> None:
        self.errors.append(error)

    def lost(self, link: Link, reason: str, *, graceful: bool) -> None:
        self.losses.append((reason, graceful))


def make(**changes: Any) -> tuple[Link, HeldConnection, Owner]:
    connection, owner = HeldConnection(), Owner()
    link = Link(cast(Connection, connection), PEER, NetSettings(credit_bytes=WINDOW, **changes), owner)
    link.start()
    return link, connection, owner


def step(tokens: int, hidden: int = 1024) -> Step:
    return Step(
        origin=NodeId("a" * 32),
        session=SessionId(bytes(16)),
        epoch=1,
        step=1,
        position=0,
        count=tokens,
        hidden=hidden,
        dtype="bfloat16",
        rows="last",
    )


def send_step(link: Link, tokens: int) -> None:
    link.send(step(tokens), bytes(tokens * 2048))


def feed(link: Link, message: AnyMessage, payload: bytes = b"", number: int = 1) -> None:
    for frame in encode(message, payload, number=number, part_bytes=MAX_PART_BYTES):
        link.frame(bytearray(b"".join(frame)))


def messages_of(connection: HeldConnection) -> list[AnyMessage]:
    """Return the messages completed by what was written, in order."""
    decoder = FrameDecoder()
    return [decoded[0] for frame in connection.written if (decoded := decoder.feed(frame)) is not None]


async def test_a_link_begins_by_granting_its_window() -> None:
    _, connection, _ = make()
    assert messages_of(connection) == [Credit(WINDOW)]


async def test_a_message_is_written_in_the_senders_own_step() -> None:
    link, connection, _ = make()
    link.send(Heartbeat(1, 2, 3))
    assert messages_of(connection)[1:] == [Heartbeat(1, 2, 3)]
    assert link.stats().queued_bytes == 0


async def test_while_the_socket_is_full_messages_wait_in_the_order_of_their_priority() -> None:
    link, connection, _ = make()
    feed(link, Credit(WINDOW))
    connection.writable = False
    send_step(link, 64)
    send_step(link, 1)
    link.send(Heartbeat(1, 2, 3))
    assert link.stats().queued_bytes > 64 * 2048
    connection.writable = True
    link.writable()
    assert messages_of(connection)[1:] == [Heartbeat(1, 2, 3), step(1), step(64)]
    assert link.stats().queued_bytes == 0


async def test_weights_wait_for_everything_else_and_their_end_is_told() -> None:
    link, connection, owner = make()
    feed(link, Credit(WINDOW))
    connection.writable = False
    chunk = Weights("d" * 64, "chunk", 7, 3 * MAX_PART_BYTES)
    link.send(chunk, bytes(chunk.octets))
    assert link.weights_waiting > chunk.octets
    send_step(link, 64)
    link.send(Heartbeat(1, 2, 3))
    connection.writable = True
    link.writable()
    assert messages_of(connection)[1:] == [Heartbeat(1, 2, 3), step(64), chunk]
    assert (link.weights_waiting, owner.drains) == (0, 1)


async def test_a_heartbeat_passes_between_the_parts_of_a_prompt() -> None:
    link, connection, _ = make()
    feed(link, Credit(WINDOW))
    connection.room = 2
    send_step(link, 96)
    link.send(Heartbeat(1, 2, 3))
    connection.room, connection.writable = None, True
    link.writable()
    assert messages_of(connection)[1:] == [Heartbeat(1, 2, 3), step(96)]
    assert len(connection.written) == 1 + 3 + 1


async def test_a_prompt_goes_no_further_than_its_credit_and_decoding_goes_on() -> None:
    link, connection, _ = make()
    send_step(link, 128)
    send_step(link, 2)
    assert messages_of(connection)[1:] == [step(2)]
    feed(link, Credit(MAX_PART_BYTES))
    assert link.stats().credit_bytes == 0
    feed(link, Credit(3 * MAX_PART_BYTES))
    assert messages_of(connection)[1:] == [step(2), step(128)]


async def test_credit_is_renewed_as_bulk_arrives() -> None:
    link, connection, owner = make()
    for number in range(1, 10):
        feed(link, step(128), bytes(128 * 2048), number)
    assert not owner.errors
    granted = sum(message.octets for message in messages_of(connection) if isinstance(message, Credit))
    assert granted == WINDOW + 9 * 128 * 2048


async def test_decode_steps_need_no_credit() -> None:
    link, connection, owner = make()
    for number in range(1, 400):
        feed(link, step(1), bytes(2048), number)
    assert len(owner.messages) == 399
    assert messages_of(connection) == [Credit(WINDOW)]


async def test_a_peer_that_sends_more_than_its_credit_is_malformed(monkeypatch: pytest.MonkeyPatch) -> None:
    link, _, owner = make()
    monkeypatch.setattr(link, "_grant", lambda octets: None)
    for number in range(1, 4):
        feed(link, step(64), bytes(64 * 2048), number)
    assert "credit" in str(owner.errors[0])
    assert owner.errors[0].close_code == CloseCode.MALFORMED


@pytest.mark.parametrize("octets", [0, -1, MAX_CREDIT_BYTES + 1, 1 << 62])
async def test_an_absurd_credit_is_malformed(octets: int) -> None:
    link, _, owner = make()
    feed(link, Credit(octets))
    assert len(owner.errors) == 1


async def test_a_probe_is_answered_by_the_link_itself() -> None:
    link, connection, owner = make()
    feed(link, Probe(77))
    assert messages_of(connection)[1:] == [ProbeAnswer(77)]
    assert not owner.messages


async def test_probing_tells_an_answering_peer_from_a_silent_one() -> None:
    link, connection, _ = make()
    asking = asyncio.create_task(link.answers(30))
    await asyncio.sleep(0)
    (probe,) = messages_of(connection)[1:]
    assert isinstance(probe, Probe)
    feed(link, ProbeAnswer(probe.nonce + 1))
    assert not asking.done()
    feed(link, ProbeAnswer(probe.nonce))
    assert await asking
    assert not await link.answers(0.01)


async def test_too_much_waiting_breaks_the_link() -> None:
    link, connection, owner = make(send_queue_bytes=300_000)
    connection.writable = False
    send_step(link, 100)
    with pytest.raises(LinkDownError, match="300000 bytes"):
        send_step(link, 100)
    assert owner.losses == [("more than 300000 bytes were waiting to be sent", False)]
    with pytest.raises(LinkDownError):
        link.send(Heartbeat(1, 2, 3))


async def test_the_owner_hears_of_malformed_frames() -> None:
    link, _, owner = make()
    link.frame(bytearray(b"\0" * 5))
    assert len(owner.errors) == 1


async def test_only_some_close_codes_are_graceful() -> None:
    link, _, owner = make()
    for code in (CloseCode.SELF, CloseCode.SECOND_LINK, CloseCode.OVERLAY, CloseCode.MALFORMED, 1001, None):
        link.ended("x", code)
    assert [graceful for _, graceful in owner.losses] == [True, True, True, False, False, False]


async def test_frames_and_bytes_are_counted() -> None:
    link, connection, _ = make()
    feed(link, Heartbeat(1, 2, 3))
    stats = link.stats()
    assert (stats.frames_sent, stats.frames_received) == (1, 1)
    assert stats.bytes_sent == sum(map(len, connection.written))
