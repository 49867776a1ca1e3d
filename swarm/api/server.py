"""Runs the front door: binds its address and serves it with Hypercorn inside the node's event loop."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config as HypercornConfig
from hypercorn.typing import ASGIFramework

from swarm.api.app import create_app
from swarm.api.asking import Render
from swarm.api.edge import connection
from swarm.api.errors import TooManyConnectionsError, described, encoded
from swarm.api.guards import is_loopback
from swarm.api.prompt import TemplateMessage
from swarm.config import ApiSettings
from swarm.errors import ConfigError, ModelError
from swarm.models.template_process import TemplateProcess
from swarm.models.tokenizer import ChatTokenizer
from swarm.node.apikeys import Key, keys_in
from swarm.node.front import FrontDoor
from swarm.types import Address

_log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0
_BACKLOG = 512
# Longer than the pools of common HTTP clients keep an idle connection, so that they close it and not we.
_IDLE_SECONDS = 75.0
_REQUESTS_A_CONNECTION = 1_000_000
_LINGER_SECONDS = 0.5
_FULL_BODY = encoded(described(TooManyConnectionsError()))
_FULL = b"\r\n".join(
    (
        b"HTTP/1.1 503 Service Unavailable",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(_FULL_BODY),
        b"Retry-After: %d" % TooManyConnectionsError.retry_after_seconds,
        b"Connection: close",
        b"",
        _FULL_BODY,
    )
)
"""Written to a connection too many without reading what it asks for."""


def check_settings(settings: ApiSettings) -> None:
    """Raise ConfigError for what would keep a front door from opening, short of binding its address."""
    if settings.listen is not None:
        _require_key(_with_key_file(settings), settings.listen)


class ApiServer:
    """One front door. ``start`` once, ``aclose`` at the end."""

    def __init__(
        self, front: FrontDoor, settings: ApiSettings, *, version: str, render: Render | None = None
    ) -> None:
        """``render`` takes the place of the process that renders chat templates."""
        self._settings = _with_key_file(settings)
        self.address = settings.listen
        """Where it was bound, once it has started."""
        self._templates = TemplateProcess()
        self._warming: asyncio.Task[None] | None = None
        self._own_render = render is None
        self._edge = app = create_app(front, self._settings, version=version, render=render or self._render)
        self._app = ASGIWrapper(cast(ASGIFramework, app))
        self._context = WorkerContext(None)
        self._max_connections = settings.max_connections
        self._hypercorn = HypercornConfig()
        self._hypercorn.include_server_header = False
        self._hypercorn.websocket_max_message_size = settings.max_body_bytes
        self._hypercorn.websocket_ping_interval = settings.keepalive_seconds
        self._hypercorn.keep_alive_timeout = _IDLE_SECONDS
        self._hypercorn.keep_alive_max_requests = _REQUESTS_A_CONNECTION
        self._hypercorn.errorlog = logging.getLogger("swarm.api.hypercorn")
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> Address:
        """Bind and serve; return the address bound.

        Raises ConfigError when the address can't be had, or would open the swarm to a network without a key.
        """
        listen = self._settings.listen
        if listen is None:
            raise ConfigError("api.listen is not set: there is no address to serve the API at")
        _require_key(self._settings, listen)
        bound = await _bind(listen)
        if self._own_render:
            # So that the first request need not wait for it.
            self._warming = asyncio.create_task(self._warm())
        if self._settings.send_buffer_bytes:
            # Accepted connections inherit it.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._settings.send_buffer_bytes)
        self._server = await asyncio.start_server(self._serve, sock=bound, backlog=_BACKLOG)
        self.address = Address(listen.host, bound.getsockname()[1])
        return self.address

    def change_keys(self, keys: tuple[Key, ...]) -> None:
        """Ask new requests for one of ``keys``. Raises ConfigError where that would open the door to a network."""
        settings = replace(self._settings, keys=keys, key_file="")
        if self.address is not None:
            _require_key(settings, self.address)
        self._edge.change_keys(keys)
        self._settings = settings

    async def aclose(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Stop accepting, let running answers end for ``grace_seconds``, then cut what is left."""
        if self._server is None:
            return
        self._server.close()
        await self._context.terminated.set()
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=grace_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        await self._templates.aclose()

    async def _render(
        self, tokenizer: ChatTokenizer, messages: Sequence[TemplateMessage], options: dict[str, Any]
    ) -> str:
        return await self._templates.render(tokenizer.filled(messages, **options))

    async def _warm(self) -> None:
        try:
            await self._templates.start()
        except ModelError as exc:
            # The first request that needs it tries again and tells its client.
            _log.warning("%s", exc)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection.set(writer.transport)
        if len(self._connections) >= self._max_connections:
            writer.write(_FULL)
            writer.write_eof()
            # Closed at once, the answer would be lost to what the client has sent and nobody read.
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, writer.transport.abort)
            return
        loop = asyncio.get_running_loop()
        # A task of our own, so that closing can cancel it: the stream's own callback task is not ours.
        task = loop.create_task(self._connection(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Connection(
                self._app, asyncio.get_running_loop(), self._hypercorn, self._context, {}, reader, writer
            )
        finally:
            writer.transport.abort()


class _Connection(TCPServer):
    """Hypercorn's connection, ended as soon as its client is gone: it would stay until its idle time is over."""

    _left = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._left = True
        await self.idle_task.stop()

    async def _idle_timeout(self) -> None:
        if not self._left:
            await super()._idle_timeout()


def _with_key_file(settings: ApiSettings) -> ApiSettings:
    return replace(settings, keys=(*settings.keys, *keys_in(settings.key_file)))


def _require_key(settings: ApiSettings, listen: Address) -> None:
    if not settings.keys and not settings.open and not is_loopback(listen.host):
        raise ConfigError(
            f"the API would be open to everyone who reaches {listen}: set keys (--api-key-file FILE), "
            "listen on 127.0.0.1, or say --api-open"
        )


async def _bind(listen: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            # On Windows this option would let a second process take the port over.
            if not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.setblocking(False)
        except OSError:
            bound.close()
            raise
    except OSError as exc:
        taken = " (another program listens there)" if exc.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"the API can't listen at {listen}: {exc.strerror or exc}{taken}") from exc
    return bound
