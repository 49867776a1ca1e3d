"""One connection on asyncio: binary frames in and out, with no task of its own. Knows no messages.

Frames go one by one to ``next_frame`` until ``go_live`` names a sink.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Protocol as Interface
from typing import cast

from swarm.errors import ProtocolError
from swarm.net.sockets import address_of, tune
from swarm.net.tls import key_of_certificate
from swarm.net.wire import Data, Ended, Event, Opened, Wire
from swarm.types import Address

LIVE_READ_BYTES = 256 * 1024
_EARLY_READ_BYTES = 4 * 1024
_CLOSE_SECONDS = 1.0
_HELD_BYTES = 32 * 1024
"""Frames of so many bytes don't wait for others of the same turn of the event loop."""


class ConnectionEndedError(Exception):
    """The connection ended; ``code`` is the WebSocket close code received, or None."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class Sink(Interface):
    """Who gets a live connection's frames. All is called from the event loop and must not block."""

    def frame(self, data: Data) -> None: ...
    def malformed(self, error: ProtocolError) -> None: ...
    def writable(self) -> None: ...
    def ended(self, reason: str, code: int | None) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """Either end of a connection. ``buffer`` is lent by the owner: any number of connections share one.

    Sharing is safe because asyncio's event loops fill the buffer and hand it over in one step.
    """

    def __init__(self, context: ssl.SSLContext, buffer: memoryview, *, server_side: bool) -> None:
        self._wire = Wire(context, server_side=server_side)
        self._server_side = server_side
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._sink: Sink | None = None
        self._inbox: deque[Data] = deque()
        self._opened = False
        self._waiter: asyncio.Future[None] | None = None
        self._failure: ProtocolError | ConnectionEndedError | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._writing_paused = False
        self._held_bytes = 0
        self.closing = False
        """Frames are neither taken nor sent any more."""
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when the socket is gone."""

    # --- for the owner --------------------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether a sink has it."""
        return self._sink is not None

    @property
    def writable(self) -> bool:
        """Whether a frame written now goes to the kernel rather than behind another."""
        return not self._writing_paused

    @property
    def buffered_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def peer_address(self) -> Address:
        """Return the peer's address. Raises ConnectionEndedError if it is gone."""
        peername = None if self._transport is None else self._transport.get_extra_info("peername")
        if peername is None:
            raise ConnectionEndedError("the connection ended")
        return address_of(peername)

    def peer_key(self) -> tuple[bytes, bytes]:
        """Return the server's certificate (DER) and Ed25519 key. Raises AuthenticationError without one."""
        certificate = self._wire.tls.peer_certificate()
        return certificate, key_of_certificate(certificate)

    async def open(self) -> None:
        """Wait until TLS and the upgrade are done. Raises ConnectionEndedError or ProtocolError."""
        while not self._opened:
            await self._wait()

    async def next_frame(self) -> bytes:
        """Wait for a handshake frame. Raises ConnectionEndedError or ProtocolError."""
        while not self._inbox:
            await self._wait()
        return bytes(self._inbox.popleft())

    def go_live(self, sink: Sink) -> None:
        """Hand all further frames to ``sink``, those already here first."""
        self._sink = sink
        self._wire.live = True
        while self._inbox and not self.closing:
            sink.frame(self._inbox.popleft())
        if self._failure is not None and not self.closing:
            self._tell_sink(self._failure)
        if self._transport is not None:
            self._transport.resume_reading()

    def write(self, frame: bytes) -> None:
        """Send one binary frame; dropped once the connection is closing.

        The small frames of one turn of the event loop leave in one write, at its end: they arrive together too.
        """
        if self.closing or not self._wire.open:
            return
        self._wire.send(frame)
        self._held_bytes += len(frame)
        if self._held_bytes >= _HELD_BYTES:
            self._flush()  # else nobody would notice that the socket takes no more
        elif self._held_bytes == len(frame):
            self._loop.call_soon(self._flush)

    def close(self, code: int) -> None:
        """Send a close frame, then end the connection within a second."""
        if self.closing:
            return
        self._wire.close(code)
        self._flush()
        self._linger()

    def abort(self) -> None:
        """Drop the connection now."""
        self.closing = True
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # Nothing waits in user space behind one frame: the priorities of the send queue decide instead.
        self._transport.set_write_buffer_limits(high=0)
        tune(self._transport.get_extra_info("socket"))
        if self.closing:
            self._transport.abort()
        elif not self._server_side:
            self._receive(b"")

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 (asyncio's signature)
        return self._buffer if self._sink is not None else self._buffer[:_EARLY_READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        self._receive(self._buffer[:nbytes])

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._sink is not None and not self.closing:
            self._sink.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._fail(
            ConnectionEndedError(f"connection lost ({exc})" if exc else "connection closed without a word")
        )
        self.closing = True
        if not self.closed.done():
            self.closed.set_result(None)

    # --- inside ---------------------------------------------------------------------------------------------

    def _receive(self, data: memoryview | bytes) -> None:
        events = self._wire.receive(data)
        self._flush()
        for event in events:
            if isinstance(event, bytes | bytearray):
                self._on_data(event)
            else:
                self._on_turn(event)

    def _on_data(self, data: Data) -> None:
        if self.closing:
            return
        if self._sink is not None:
            self._sink.frame(data)
            return
        # One frame at a time until the peer is known: what follows waits in the kernel.
        if self._transport is not None:
            self._transport.pause_reading()
        self._inbox.append(data)
        self._wake()

    def _on_turn(self, event: Event) -> None:
        if isinstance(event, Opened):
            self._opened = True
            self._wake()
        elif isinstance(event, ProtocolError):
            self._fail(event)
        elif isinstance(event, Ended):
            self._fail(ConnectionEndedError(event.reason, event.code))
            if event.code is not None and self._transport is not None:
                self.closing = True
                self._transport.close()
            else:
                self._linger()

    def _fail(self, failure: ProtocolError | ConnectionEndedError) -> None:
        """Keep the first failure for who waits, or tell the sink."""
        if self._failure is not None:
            return
        self._failure = failure
        self._wake()
        if self._sink is not None and not self.closing:
            self._tell_sink(failure)

    def _tell_sink(self, failure: ProtocolError | ConnectionEndedError) -> None:
        if self._sink is None:
            return
        if isinstance(failure, ProtocolError):
            self._sink.malformed(failure)
        else:
            self._sink.ended(failure.reason, failure.code)

    def _flush(self) -> None:
        self._held_bytes = 0
        try:
            data = self._wire.outgoing()
        except ssl.SSLError as exc:
            self._fail(ConnectionEndedError(f"TLS broke ({exc.reason})"))
            self.abort()
            return
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _linger(self) -> None:
        """Let what was sent arrive and the peer close, but not for long; what it still sends is dropped."""
        self.closing = True
        if self._transport is None or self._close_timer is not None:
            return
        self._transport.resume_reading()
        self._close_timer = self._loop.call_later(_CLOSE_SECONDS, self._transport.abort)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        """Wait until something happened. Raises what ended the connection, or made it useless."""
        if self._failure is not None:
            raise self._failure
        if self._transport is not None:
            self._transport.resume_reading()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
