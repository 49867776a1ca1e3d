"""The outermost layer of the front door: ids, guards, limits and clean-up for every request.

ASGI middleware. Knows nothing of models or answers.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

from swarm.api import exchange, sse
from swarm.api.admission import Admission
from swarm.api.errors import (
    BodyTooLargeError,
    RateLimitError,
    ShuttingDownError,
    TooManyRequestsError,
    described,
    encoded,
    error_headers,
    http_error,
)
from swarm.api.exchange import Exchange
from swarm.api.guards import Caller, Guard, is_loopback
from swarm.api.intake import Receive, drain, replayed, take_body
from swarm.api.metrics import Metrics
from swarm.api.page import page_files
from swarm.api.rates import Rates
from swarm.api.requestlog import HEALTH_PATHS, log_request
from swarm.api.sse import Keepalive, Send
from swarm.config import ApiKey, ApiSettings
from swarm.errors import SwarmError

Scope = MutableMapping[str, Any]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

SOCKET_PATHS = frozenset({"/responses", "/v1/responses"})
OPEN_PATHS = HEALTH_PATHS | frozenset(page_files())
"""Answered without a key: the page itself holds nothing; what it shows it asks for with a key."""
_EXPOSED_HEADERS = "x-request-id, x-swarm-route, retry-after, x-should-retry, server-timing"

connection: ContextVar[asyncio.WriteTransport | None] = ContextVar("swarm_api_connection", default=None)
"""The transport a request came over, set by the server: clients that stopped reading are cut by it."""


class StalledReaderError(TimeoutError):
    """The client read nothing for too long; its connection is gone."""


class Edge:
    """Wraps an ASGI application. One instance a front door."""

    def __init__(self, app: AsgiApp, settings: ApiSettings, metrics: Metrics, admission: Admission) -> None:
        self._app = app
        self._admission = admission
        self._metrics = metrics
        self._guard = Guard.of(settings)
        self._settings = settings
        self._under_way: Counter[str] = Counter()
        self._rates = Rates()

    def change_keys(self, keys: tuple[str | ApiKey, ...]) -> None:
        """Ask requests from now on for one of ``keys``; none are left to accept every key."""
        self._settings = replace(self._settings, keys=keys)
        self._guard = Guard.of(self._settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        current = Exchange(exchange.new_request_id())
        current.from_loopback = scope.get("client") is not None and is_loopback(scope["client"][0])
        clock = asyncio.get_running_loop().time
        current.account.began = clock()
        exchange.enter(current)
        answer = _Answer(send, current, self._settings.stalled_reader_seconds)
        keepalive = Keepalive(answer.send, self._settings.keepalive_seconds)
        try:
            async with current.cleanup:
                await self._admitted(scope, receive, keepalive.send, answer, current)
        finally:
            await keepalive.aclose()
            if scope["type"] == "http":
                # 499, as proxies say it: the client left before its answer began.
                path, status = str(scope["path"]), answer.status or 499
                self._metrics.answered(path, status, current.account, clock())
                log_request(current, str(scope["method"]), path, status, clock())

    async def _admitted(
        self, scope: Scope, receive: Receive, send: Send, answer: _Answer, current: Exchange
    ) -> None:
        headers = _Headers(scope)
        try:
            host = self._guard.check_host(headers.all(b"host"))
            scheme = "https" if scope["scheme"] in ("https", "wss") else "http"
            answer.allowed_origin = self._guard.check_origin(headers.all(b"origin"), scheme, host)
            if _is_preflight(scope, headers):
                await answer.preflight()
                return
            current.caller = self._caller(scope, headers)
            if not _has_path(scope):
                await answer.refuse(
                    scope, 404, http_error(404, str(scope.get("method", "GET")), str(scope["path"])), {}
                )
                return
            current.charge = partial(self._charge, current.caller)
            with self._counted(scope, current.caller):
                if scope["type"] == "http" and scope["method"] == "POST":
                    body = await self._body(headers, receive)
                    if body is None:
                        return
                    receive = replayed(body, receive)
                await self._run(scope, receive, send, answer)
        except SwarmError as exc:
            if scope["type"] == "http":
                await drain(receive, self._settings.max_body_bytes)
            await answer.refuse(scope, exc.http_status, described(exc), error_headers(exc))

    async def _run(self, scope: Scope, receive: Receive, send: Send, answer: _Answer) -> None:
        """Run the application; the client learns why it got no whole answer even when nobody foresaw that."""
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            # Only the server's end cancels this task; a client that leaves does not.
            await answer.cut_short(scope, ShuttingDownError())
            raise
        except Exception as exc:
            await answer.cut_short(scope, SwarmError(str(exc)))
            raise

    def _caller(self, scope: Scope, headers: _Headers) -> Caller:
        if scope["path"] in OPEN_PATHS:
            return Caller()
        return self._guard.caller(headers.all(b"authorization"))

    async def _body(self, headers: _Headers, receive: Receive) -> bytes | None:
        self._guard.check_content_type(headers.all(b"content-type"))
        length = headers.all(b"content-length")
        if length and length[0].isdecimal() and int(length[0]) > self._settings.max_body_bytes:
            raise BodyTooLargeError(self._settings.max_body_bytes)
        return await take_body(receive, self._settings.max_body_bytes)

    @contextmanager
    def _counted(self, scope: Scope, caller: Caller) -> Iterator[None]:
        """Count what computes, so that one key can't take the whole door."""
        if scope["type"] == "http" and scope["method"] != "POST":
            yield
            return
        limit = caller.max_concurrent or self._settings.max_concurrent_per_key
        if self._under_way[caller.scope] >= limit:
            raise TooManyRequestsError(limit, self._admission.retry_after(caller.scope))
        if scope["type"] == "http":
            self._charge(caller)
        self._under_way[caller.scope] += 1
        try:
            yield
        finally:
            self._under_way[caller.scope] -= 1
            if not self._under_way[caller.scope]:
                del self._under_way[caller.scope]

    def _charge(self, caller: Caller) -> None:
        """Count a request against its key's requests a minute. Raises RateLimitError."""
        if caller.requests_per_minute is None:
            return
        now = asyncio.get_running_loop().time()
        wait = self._rates.take(caller.scope, caller.requests_per_minute, now)
        if wait > 0:
            raise RateLimitError(caller.requests_per_minute, wait)


class _Headers:
    def __init__(self, scope: Scope) -> None:
        self._items = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]

    def all(self, name: bytes) -> list[str]:
        return [value for key, value in self._items if key == name]


class _Answer:
    """Sends one answer: adds what every answer carries, and cuts a client that stopped reading."""

    def __init__(self, send: Send, current: Exchange, stalled_seconds: float) -> None:
        self._send = send
        self._exchange = current
        self._stalled_seconds = stalled_seconds
        self.allowed_origin: str | None = None
        self._started: Mapping[str, Any] | None = None
        self._ended = False

    @property
    def status(self) -> int | None:
        """What the client was told, or None when it was told nothing."""
        return None if self._started is None else int(self._started["status"])

    async def send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "websocket.accept":
            message = {**message, "headers": [*message.get("headers", ()), *self._own_headers()]}
        elif message["type"] in ("http.response.start", "websocket.http.response.start"):
            message = {**message, "headers": [*message.get("headers", ()), *self._own_headers()]}
            self._started = message
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
        try:
            async with asyncio.timeout(self._stalled_seconds):
                await self._send(message)
        except TimeoutError:
            transport = connection.get()
            if transport is not None:
                _reset(transport)
            raise StalledReaderError(f"the client read nothing for {self._stalled_seconds:g} s") from None

    async def refuse(self, scope: Scope, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        prefix = "" if scope["type"] == "http" else "websocket."
        if prefix and "websocket.http.response" not in scope.get("extensions", {}):
            await self.send({"type": "websocket.close", "code": 1008})
            return
        data = encoded(body)
        await self.send(
            {
                "type": f"{prefix}http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(data)).encode()),
                    *((name.encode(), value.encode()) for name, value in headers.items()),
                ],
            }
        )
        await self.send({"type": f"{prefix}http.response.body", "body": data, "more_body": False})

    async def cut_short(self, scope: Scope, error: SwarmError) -> None:
        """Say why the answer ends here: as a status, or as an event where a stream is under way."""
        if scope["type"] != "http" or self._ended:
            return
        if self._started is None:
            await self.refuse(scope, error.http_status, described(error), error_headers(error))
        elif sse.is_stream(self._started):
            event = sse.event(described(error), "error")
            await self.send({"type": "http.response.body", "body": event, "more_body": False})

    async def preflight(self) -> None:
        headers = [
            (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
            (b"access-control-allow-headers", b"authorization, content-type, x-swarm-timeout"),
            (b"access-control-max-age", b"600"),
        ]
        await self.send({"type": "http.response.start", "status": 204, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def _own_headers(self) -> list[tuple[bytes, bytes]]:
        timing = self._exchange.account.timing(asyncio.get_running_loop().time())
        headers = [(b"x-request-id", self._exchange.request_id.encode()), (b"server-timing", timing.encode())]
        if self.allowed_origin is not None:
            headers += [
                (b"access-control-allow-origin", self.allowed_origin.encode()),
                (b"access-control-expose-headers", _EXPOSED_HEADERS.encode()),
                (b"vary", b"Origin"),
            ]
        return headers


def _reset(transport: asyncio.WriteTransport) -> None:
    """End a connection so that its client learns of it now, and the kernel keeps nothing for it.

    Closed as usual, what the kernel still has to send waits for a reader who does not read, and the end of the
    connection behind it: the kernel gives both up in the end, and tells nobody.
    """
    plain = transport.get_extra_info("socket")
    if plain is not None:
        with suppress(OSError):  # it may be gone already
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


def _has_path(scope: Scope) -> bool:
    """Whether the path can be one of this door's: only responses are served over WebSocket too."""
    path = str(scope["path"])
    return path in SOCKET_PATHS if scope["type"] == "websocket" else path.startswith("/")


def _is_preflight(scope: Scope, headers: _Headers) -> bool:
    """Whether a browser asks for leave. It can't send a key with that question."""
    return (
        scope["type"] == "http"
        and scope["method"] == "OPTIONS"
        and bool(headers.all(b"origin"))
        and bool(headers.all(b"access-control-request-method"))
    )
