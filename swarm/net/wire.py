"""TLS and WebSocket of one connection over memory: bytes in, events and bytes out. Knows no socket."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from typing import TypeAlias, cast

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from swarm.errors import ProtocolError
from swarm.net.tls import TlsPipe
from swarm.protocol.limits import CLOSE_REASONS, MAX_FRAME_BYTES, MAX_HANDSHAKE_BYTES, PATH

_URI = parse_uri(f"wss://swarm{PATH}")
_SWITCHING_PROTOCOLS = 101
_SHOWN_CHARACTERS = 80

# Its debug output is every frame: handshakes have no place in a log.
_frames_log = logging.getLogger("swarm.net.websocket")
_frames_log.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Opened:
    """TLS and the upgrade are done."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more will come. ``code`` is the WebSocket close code the peer sent, if it sent one."""

    reason: str
    code: int | None = None


Data: TypeAlias = bytes | bytearray
Event: TypeAlias = Data | Opened | Ended | ProtocolError
"""A binary frame's payload, a turn of the connection, or what was wrong with the peer's bytes."""


class Wire:
    """One end. After ``receive``, ``send`` and ``close`` the caller writes what ``outgoing`` returns."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.tls = TlsPipe(context, server_side=server_side)
        self._websocket: ServerProtocol | ClientProtocol = (
            ServerProtocol(max_size=MAX_FRAME_BYTES, logger=_frames_log)
            if server_side
            else ClientProtocol(_URI, max_size=MAX_FRAME_BYTES, logger=_frames_log)
        )
        self._requested = server_side
        self._unparsed_bytes = 0
        self._broken = False
        self._ended = False
        self.live = False
        """Whether frames may be larger than those of the handshake; the owner sets it."""

    @property
    def open(self) -> bool:
        """Whether frames may be sent."""
        return self._websocket.state is State.OPEN

    def receive(self, data: memoryview | bytes) -> list[Event]:
        """Take bytes from the network. Empty ``data`` starts the client's side."""
        try:
            plaintext = self.tls.receive(data)
        except ssl.SSLError as exc:
            return self._end(f"no TLS 1.3 with it ({(exc.reason or 'unknown').replace('_', ' ').lower()})")
        if self.tls.established and not self._requested:
            self._requested = True
            websocket = cast(ClientProtocol, self._websocket)
            websocket.send_request(websocket.connect())
        events: list[Event] = []
        for chunk in plaintext:
            events += self._parse(chunk)
        return events

    def send(self, frame: bytes) -> None:
        """Send one binary frame. Only while ``open``."""
        self._websocket.send_binary(frame)

    def close(self, code: int) -> None:
        """Send a close frame, if the connection got that far."""
        if self.open:
            self._websocket.send_close(code, CLOSE_REASONS.get(code, ""))

    def outgoing(self) -> bytes:
        """Return what goes to the network now. Raises ssl.SSLError when TLS is beyond repair."""
        pieces = [self.tls.send(data) for data in self._websocket.data_to_send() if data]
        if len(pieces) == 1:
            return pieces[0]
        return b"".join(pieces) + self.tls.outgoing()

    def _parse(self, chunk: bytes) -> list[Event]:
        websocket = self._websocket
        websocket.receive_data(chunk)
        received = websocket.events_received()
        events: list[Event] = []
        for event in received:
            if isinstance(event, Frame):
                events += self._on_frame(event)
            elif isinstance(event, Request):
                events += self._on_request(event)
            elif websocket.handshake_exc is None:
                events.append(Opened())
        if websocket.parser_exc is not None:
            events += self._malformed(f"not a WebSocket frame of ours: {websocket.parser_exc}")
        elif websocket.state is State.CONNECTING and websocket.handshake_exc is not None:
            events += self._end(
                f"no WebSocket with it ({str(websocket.handshake_exc)[:_SHOWN_CHARACTERS]!r})"
            )
        elif not self.live:
            self._unparsed_bytes = 0 if received else self._unparsed_bytes + len(chunk)
            if self._unparsed_bytes > MAX_HANDSHAKE_BYTES:
                events += self._malformed(f"more than {MAX_HANDSHAKE_BYTES} bytes at once before READY")
        return events

    def _on_frame(self, frame: Frame) -> list[Event]:
        if frame.opcode is Opcode.BINARY and frame.fin:
            if not self.live and len(frame.data) > MAX_HANDSHAKE_BYTES:
                return self._malformed(f"a frame of {len(frame.data)} bytes before READY")
            return [cast(Data, frame.data)]
        if frame.opcode is Opcode.CLOSE:
            close = self._websocket.close_rcvd
            if close is None:
                return self._end("closed by the peer")
            text = CLOSE_REASONS.get(close.code, close.reason[:_SHOWN_CHARACTERS])
            return self._end(f"closed by the peer: {close.code} {text!r}", close.code)
        return self._malformed("a WebSocket frame of a kind that links don't use")

    def _on_request(self, request: Request) -> list[Event]:
        websocket = cast(ServerProtocol, self._websocket)
        if request.path == PATH:
            response = websocket.accept(request)
        else:
            response = websocket.reject(404, f"This is a swarm node's port: WebSocket at {PATH} only.\n")
        websocket.send_response(response)
        if response.status_code == _SWITCHING_PROTOCOLS:
            return [Opened()]
        return self._end(
            f"{request.method} {request.path[:_SHOWN_CHARACTERS]!r} is not the upgrade of a link"
        )

    def _malformed(self, text: str) -> list[Event]:
        if self._broken or self._ended:
            return []
        self._broken = True
        return [ProtocolError(text)]

    def _end(self, reason: str, code: int | None = None) -> list[Event]:
        if self._ended:
            return []
        self._ended = True
        return [Ended(reason, code)]
