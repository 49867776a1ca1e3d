"""One authenticated link: messages, priorities, credits, probes. Has no task and knows no other link."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Protocol as Interface

from swarm.config import NetSettings
from swarm.errors import LinkDownError, ProtocolError
from swarm.net.connection import Connection
from swarm.net.sendqueue import SendQueue, priority_of
from swarm.net.traffic import Traffic
from swarm.protocol.codec import Frame, FrameDecoder, Payload, encode
from swarm.protocol.limits import GRACEFUL_CODES, MAX_CREDIT_BYTES, MAX_PART_BYTES
from swarm.protocol.messages import AnyMessage, Credit, Probe, ProbeAnswer, SignedRecord
from swarm.types import Address, BootId, NodeId

_GRANTS_PER_WINDOW = 4


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """Who is at the other end of a link, as the handshake proved it."""

    node: NodeId
    public_key: bytes
    boot: BootId
    record: SignedRecord | None
    """The dialling side's record from READY, its signature not yet verified."""
    dialled: Address | None
    """The address we reached the peer at; None if the peer dialled us."""
    observed: Address
    """The peer's address as we see it."""
    observed_self: Address | None
    """Our address as the peer sees it, if we dialled: a hint only."""


@dataclass(frozen=True, slots=True)
class LinkStats:
    frames_sent: int
    bytes_sent: int
    frames_received: int
    bytes_received: int
    queued_bytes: int
    credit_bytes: int
    """Bulk payload bytes the peer takes now."""


class LinkOwner(Interface):
    """What a link tells the network. All are called from the event loop."""

    def received(self, node: NodeId, message: AnyMessage, payload: memoryview) -> None: ...
    def misbehaved(self, link: Link, error: ProtocolError) -> None: ...
    def lost(self, link: Link, reason: str, *, graceful: bool) -> None: ...
    def drained(self, link: Link) -> None: ...


class Link:
    """A link to one authenticated peer. It writes in the sender's own step whenever the socket takes more."""

    def __init__(
        self,
        connection: Connection,
        info: PeerInfo,
        settings: NetSettings,
        owner: LinkOwner,
        traffic: Traffic | None = None,
    ) -> None:
        self.info = info
        self._traffic = traffic or Traffic()
        self._connection = connection
        self._settings = settings
        self._owner = owner
        self._decoder = FrameDecoder()
        self._queue = SendQueue()
        self._number = 0
        self._window = max(settings.credit_bytes, 2 * MAX_PART_BYTES)
        self._granted = 0
        self._probes: dict[int, asyncio.Future[None]] = {}
        self._frames_sent = self._bytes_sent = self._frames_received = self._bytes_received = 0

    # --- for the network ------------------------------------------------------------------------------------

    @property
    def down(self) -> bool:
        return self._connection.closing

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the socket is gone."""
        return self._connection.closed

    def start(self) -> None:
        """Grant the peer its first credits and take its frames from now on."""
        if not self.down:
            self._grant(self._window)
            self._connection.go_live(self)

    def send(self, message: AnyMessage, payload: Payload = b"") -> None:
        """Send now or queue. Raises LinkDownError if the link is down or its queue is over the limit."""
        if self._connection.closing:
            raise LinkDownError(self.info.node, "the link is down")
        self._number += 1
        frames = encode(message, payload, number=self._number, part_bytes=self._settings.part_bytes)
        self._traffic.sent(message, sum(len(head) + part.nbytes for head, part in frames))
        priority = priority_of(message, len(frames))
        if len(frames) == 1 and self._connection.writable:
            # While the socket takes more, nothing but bulk without credit can be waiting.
            self._write(frames[0])
            return
        for frame in frames:
            self._queue.push(priority, frame)
        self._pump()
        if self._queue.queued_bytes > self._settings.send_queue_bytes:
            reason = f"more than {self._settings.send_queue_bytes} bytes were waiting to be sent"
            self._connection.abort()
            self._owner.lost(self, reason, graceful=False)
            raise LinkDownError(self.info.node, reason)

    @property
    def weights_waiting(self) -> int:
        """Bytes of weights that wait for all else to be sent."""
        return self._queue.weights_bytes

    def close(self, code: int) -> None:
        self._connection.close(code)

    def abort(self) -> None:
        self._connection.abort()

    async def answers(self, seconds: float) -> bool:
        """Say whether the peer answers a probe within that time."""
        self._number += 1
        nonce = self._number
        answer = self._probes[nonce] = asyncio.get_running_loop().create_future()
        try:
            self.send(Probe(nonce))
            async with asyncio.timeout(seconds):
                await answer
        except (LinkDownError, TimeoutError):
            return False
        finally:
            del self._probes[nonce]
        return True

    def stats(self) -> LinkStats:
        return LinkStats(
            frames_sent=self._frames_sent,
            bytes_sent=self._bytes_sent,
            frames_received=self._frames_received,
            bytes_received=self._bytes_received,
            queued_bytes=self._queue.queued_bytes + self._connection.buffered_bytes,
            credit_bytes=self._queue.credit,
        )

    # --- Sink -----------------------------------------------------------------------------------------------

    def frame(self, data: bytes | bytearray) -> None:
        self._frames_received += 1
        self._bytes_received += len(data)
        self._traffic.received_bytes += len(data)
        try:
            complete = self._decoder.feed(data)
            self._check_credit()
            if complete is not None:
                self._deliver(*complete)
        except ProtocolError as exc:
            self._owner.misbehaved(self, exc)

    def malformed(self, error: ProtocolError) -> None:
        self._owner.misbehaved(self, error)

    def writable(self) -> None:
        waited = self._queue.weights_bytes
        self._pump()
        if waited and not self._queue.weights_bytes:
            self._owner.drained(self)

    def ended(self, reason: str, code: int | None) -> None:
        self._owner.lost(self, reason, graceful=code in GRACEFUL_CODES)

    # --- inside ---------------------------------------------------------------------------------------------

    def _deliver(self, message: AnyMessage, payload: memoryview) -> None:
        if isinstance(message, Probe):
            self._reply(ProbeAnswer(message.nonce))
        elif isinstance(message, ProbeAnswer):
            answer = self._probes.get(message.nonce)
            if answer is not None and not answer.done():
                answer.set_result(None)
        elif isinstance(message, Credit):
            self._credited(message.octets)
        else:
            self._owner.received(self.info.node, message, payload)

    def _credited(self, octets: int) -> None:
        if not 0 < octets <= MAX_CREDIT_BYTES or self._queue.credit + octets > MAX_CREDIT_BYTES:
            raise ProtocolError(f"a credit of {octets} bytes")
        self._queue.credit += octets
        self._pump()

    def _check_credit(self) -> None:
        """Hold the peer to its credit, renewed as bulk arrives: the reader never waits for a consumer."""
        left = self._granted - self._decoder.bulk_bytes
        if left < 0:
            raise ProtocolError("more bulk data than credits were granted for")
        if self._window - left >= self._window // _GRANTS_PER_WINDOW:
            self._grant(self._window - left)

    def _grant(self, octets: int) -> None:
        self._granted += octets
        self._reply(Credit(octets))

    def _reply(self, message: AnyMessage) -> None:
        with contextlib.suppress(LinkDownError):
            self.send(message)

    def _pump(self) -> None:
        while self._connection.writable:
            frame = self._queue.pop()
            if frame is None:
                return
            self._write(frame)

    def _write(self, frame: Frame) -> None:
        data = b"".join(frame)
        self._frames_sent += 1
        self._bytes_sent += len(data)
        self._connection.write(data)
