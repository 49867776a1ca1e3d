"""One TCP connection with TLS and WebSocket framing: binary frames in and out, no task of its own.

Knows no messages and no identities. Frames go one by one to ``next_frame`` until ``go_live`` names a sink.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from typing import Protocol as Interface
from typing import cast

from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from swarm.errors import ProtocolError
from swarm.net.sockets import address_of
from swarm.net.tls import TlsPipe, key_of_certificate
from swarm.protocol.limits import CLOSE_REASONS, MAX_FRAME_BYTES, MAX_HANDSHAKE_BYTES, PATH
from swarm.types import Address

LIVE_READ_BYTES = 256 * 1024
_EARLY_READ_BYTES = 4 * 1024
_CLOSE_SECONDS = 1.0
_URI = parse_uri(f"wss://swarm{PATH}")

# Its debug output is every frame: handshakes have no place in a log.
_frames_log = logging.getLogger("swarm.net.websocket")
_frames_log.setLevel(logging.WARNING)


class ConnectionEndedError(Exception):
    """The connection ended; ``code`` is the WebSocket close code received, or None."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class Sink(Interface):
    """Who gets a live connection's frames. All methods are called from the event loop and must not block."""

    def frame(self, data: bytearray) -> None: ...
    def malformed(self, error: ProtocolError) -> None: ...
    def writable(self) -> None: ...
    def ended(self, reason: str, code: int | None) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """Either end of a connection. ``buffer`` is lent by the owner: any number of connections share one.

    Sharing is safe because both asyncio event loops fill the buffer and hand it over in one step.
    """

    def __init__(self, context: ssl.SSLContext, buffer: memoryview, *, server_side: bool) -> None:
        self._tls = TlsPipe(context, server_side=server_side)
        self._server_side = server_side
        self._websocket: ServerProtocol | ClientProtocol = (
            ServerProtocol(max_size=MAX_FRAME_BYTES, logger=_frames_log)
            if server_side
            else ClientProtocol(_URI, max_size=MAX_FRAME_BYTES, logger=_frames_log)
        )
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._sink: Sink | None = None
        self._inbox: deque[bytearray] = deque()
        self._unparsed_bytes = 0
        self._requested = False
        self._waiter: asyncio.Future[None] | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._end: ConnectionEndedError | None = None
        self._failure: ProtocolError | None = None
        self._paused = False
        self.opened = False
        """TLS and the upgrade are done."""
        self.closing = False
        self.closed: asyncio.Future[None] = self._loop.create_future()

    # --- for the owner --------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether a frame written now goes to the kernel rather than behind another."""
        return not self._paused

    @property
    def buffered_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def live(self) -> bool:
        """Whether a link has it."""
        return self._sink is not None

    def peer_address(self) -> Address:
        """Return the peer's address. Raises ConnectionEndedError if it is gone."""
        peername = None if self._transport is None else self._transport.get_extra_info("peername")
        if peername is None:
            raise ConnectionEndedError("the connection ended")
        return address_of(peername)

    def peer_key(self) -> tuple[bytes, bytes]:
        """Return the server's certificate (DER) and Ed25519 key. Raises AuthenticationError without one."""
        certificate = self._tls.peer_certificate()
        return certificate, key_of_certificate(certificate)

    async def open(self) -> None:
        """Wait until TLS and the upgrade are done. Raises ConnectionEndedError."""
        while not self.opened:
            await self._wait()

    async def next_frame(self) -> bytes:
        """Wait for a handshake frame. Raises ConnectionEndedError, or ProtocolError for an oversized one."""
        while not self._inbox:
            await self._wait()
        frame = bytes(self._inbox.popleft())
        if len(frame) > MAX_HANDSHAKE_BYTES:
            raise ProtocolError(f"a frame of {len(frame)} bytes before READY")
        return frame

    def go_live(self, sink: Sink) -> None:
        """Hand all further frames to ``sink``, those already here first."""
        self._sink = sink
        while self._inbox and not self.closing:
            sink.frame(self._inbox.popleft())
        if self._transport is not None and not self.closing:
            self._transport.resume_reading()

    def write(self, frame: bytes) -> None:
        """Send one binary frame in one TLS write."""
        if self.closing or self._transport is None:
            return
        self._websocket.send_binary(frame)
        self._flush()

    def close(self, code: int) -> None:
        """Send a close frame, then end the connection within a second."""
        if self.closing or self._transport is None:
            return
        if self._websocket.state is State.OPEN:
            self._websocket.send_close(code, CLOSE_REASONS.get(code, ""))
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
        if not self._server_side:
            self._receive(b"")

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 (asyncio calls it by position)
        return self._buffer if self._sink is not None else self._buffer[:_EARLY_READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        self._receive(self._buffer[:nbytes])

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._sink is not None and not self.closing:
            self._sink.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._transport = None
        self._finish(f"connection lost ({exc})" if exc else "connection closed without a word")
        if not self.closed.done():
            self.closed.set_result(None)

    # --- inside ---------------------------------------------------------------------------------------------

    def _receive(self, data: memoryview | bytes) -> None:
        try:
            plaintext = self._tls.receive(data)
        except ssl.SSLError as exc:
            self._put(self._tls.outgoing())
            self._finish(f"no TLS 1.3 with it ({(exc.reason or 'unknown').replace('_', ' ').lower()})")
            self._linger()
            return
        self._put(self._tls.outgoing())
        if self._tls.established and not self._requested:
            self._requested = True
            self._request_upgrade()
        for chunk in plaintext:
            self._feed(chunk)

    def _request_upgrade(self) -> None:
        if isinstance(self._websocket, ClientProtocol):
            self._websocket.send_request(self._websocket.connect())
            self._flush()

    def _feed(self, chunk: bytes) -> None:
        websocket = self._websocket
        websocket.receive_data(chunk)
        events = websocket.events_received()
        for event in events:
            if isinstance(event, Frame):
                self._on_frame(event)
            elif isinstance(event, Request):
                self._on_request(event)
            else:
                self._on_response()
        self._flush()
        if websocket.parser_exc is not None:
            self._malformed(f"not a WebSocket frame of ours: {websocket.parser_exc}")
        elif websocket.state is State.CONNECTING and websocket.handshake_exc is not None:
            self._refuse_upgrade(str(websocket.handshake_exc))
        elif self._sink is None and not self._inbox:
            self._unparsed_bytes = 0 if events else self._unparsed_bytes + len(chunk)
            if self._unparsed_bytes > MAX_HANDSHAKE_BYTES:
                self._malformed(f"more than {MAX_HANDSHAKE_BYTES} bytes at once before READY")

    def _on_request(self, request: Request) -> None:
        websocket = cast(ServerProtocol, self._websocket)
        if request.path == PATH:
            response = websocket.accept(request)
        else:
            response = websocket.reject(404, f"This is a swarm node's port: WebSocket at {PATH} only.\n")
        websocket.send_response(response)
        self._flush()
        if response.status_code == 101:
            self._opened()
        else:
            self._refuse_upgrade(f"{request.method} {request.path[:40]!r} is not the upgrade of a link")

    def _on_response(self) -> None:
        if self._websocket.handshake_exc is None:
            self._opened()
        else:
            self._refuse_upgrade(str(self._websocket.handshake_exc))

    def _opened(self) -> None:
        self.opened = True
        self._wake()

    def _refuse_upgrade(self, reason: str) -> None:
        self._finish(f"no WebSocket with it ({reason})")
        self._linger()

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY and frame.fin:
            if self.closing:
                return
            if self._sink is not None:
                self._sink.frame(cast(bytearray, frame.data))
                return
            self._inbox.append(cast(bytearray, frame.data))
            if self._transport is not None:
                self._transport.pause_reading()
            self._wake()
        elif frame.opcode is Opcode.CLOSE:
            close = self._websocket.close_rcvd
            self._flush()
            self._finish(_close_text(close), None if close is None else close.code)
            self.closing = True
            if self._transport is not None:
                self._transport.close()
        elif not self.closing:
            self._malformed("a WebSocket frame of a kind that links don't use")

    def _malformed(self, text: str) -> None:
        if self.closing:
            return
        error = ProtocolError(text)
        if self._sink is not None:
            self._sink.malformed(error)
        else:
            self._failure = error
            self._wake()

    def _flush(self) -> None:
        for data in self._websocket.data_to_send():
            if not data:
                continue
            try:
                self._put(self._tls.send(data))
            except ssl.SSLError:
                self.abort()

    def _put(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _linger(self) -> None:
        """Let what was sent arrive and the peer close, but not for long; what it still sends is dropped."""
        self.closing = True
        if self._transport is None or self._close_timer is not None:
            return
        self._transport.resume_reading()
        self._close_timer = self._loop.call_later(_CLOSE_SECONDS, self._transport.abort)

    def _finish(self, reason: str, code: int | None = None) -> None:
        if self._end is not None:
            return
        self._end = ConnectionEndedError(reason, code)
        self._wake()
        if self._sink is not None:
            self._sink.ended(reason, code)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        """Wait until something happened. Raises what ended the connection, or made it useless."""
        if self._failure is not None:
            raise self._failure
        if self._end is not None:
            raise self._end
        if self._transport is not None:
            self._transport.resume_reading()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


def _close_text(close: Close | None) -> str:
    if close is None:
        return "closed by the peer"
    return f"closed by the peer: {close.code} {CLOSE_REASONS.get(close.code, close.reason[:80])!r}"
