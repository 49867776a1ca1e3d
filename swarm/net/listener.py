"""Accepts TCP connections, under limits that hold before TLS, with one task for each until it is a link.

Knows no handshake: that is its ``serve``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Awaitable, Callable

from swarm.config import NetSettings
from swarm.errors import ConfigError
from swarm.net.connection import Connection
from swarm.net.gate import AcceptGate
from swarm.net.sockets import address_of, open_listener
from swarm.net.table import RefusalLog
from swarm.types import Address

log = logging.getLogger("swarm.net")

_OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_OUT_OF_FILES_PAUSE_SECONDS = 0.5

Serve = Callable[[Connection, Address], Awaitable[None]]


class Listener:
    """The accept loop. ``make`` builds a connection's protocol, ``serve`` brings it to READY or closes it."""

    def __init__(
        self, settings: NetSettings, refusals: RefusalLog, make: Callable[[], Connection], serve: Serve
    ) -> None:
        self._settings = settings
        self._refusals = refusals
        self._make = make
        self._serve = serve
        self._gate = AcceptGate(settings)
        self._left = asyncio.Event()
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._handshakes: set[asyncio.Task[None]] = set()

    def start(self, listen: Address) -> Address:
        """Listen; return the bound address. Raises ConfigError when that is not possible."""
        try:
            self._socket = open_listener(listen)
        except OSError as exc:
            why = "the port is taken" if exc.errno == errno.EADDRINUSE else (exc.strerror or str(exc))
            raise ConfigError(f"can't listen on {listen}: {why}; choose another with --listen") from exc
        self._accepting = asyncio.create_task(self._accept_all(self._socket), name="swarm accept")
        self._accepting.add_done_callback(_log_failure)
        return address_of(self._socket.getsockname())

    async def aclose(self) -> None:
        """Stop listening and drop what is not yet a link."""
        tasks = [task for task in (self._accepting, *self._handshakes) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._socket is not None:
            self._socket.close()

    async def _accept_all(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peername = await loop.sock_accept(listener)
            except OSError as exc:
                # A connection reset before accept is the peer's affair; out of descriptors is ours.
                if exc.errno in _OUT_OF_FILES:
                    log.warning("can't accept connections for now: %s", exc.strerror)
                    await asyncio.sleep(_OUT_OF_FILES_PAUSE_SECONDS)
                elif listener.fileno() < 0:
                    raise
                continue
            observed = address_of(peername)
            refusal = self._gate.refusal(observed.host, loop.time())
            if refusal is not None:
                self._refusals.warn(observed, refusal)
                accepted.close()
                continue
            try:
                await self._room()
            except asyncio.CancelledError:
                accepted.close()
                raise
            self._begin(accepted, observed)

    async def _room(self) -> None:
        """Wait until one more connection may begin its handshake; those behind it wait in the kernel."""
        while (seconds := self._gate.full_for(asyncio.get_running_loop().time())) > 0:
            self._left.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._left.wait()

    def _leave(self, connection: Connection) -> None:
        self._gate.leave(connection)
        self._left.set()

    def _begin(self, accepted: socket.socket, observed: Address) -> None:
        connection = self._make()
        task = asyncio.create_task(self._handshake(connection, accepted, observed), name="swarm handshake")
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)
        task.add_done_callback(_log_failure)
        dropped = self._gate.enter(connection, observed.host, asyncio.get_running_loop().time())
        if isinstance(dropped, Connection):
            dropped.abort()

    async def _handshake(self, connection: Connection, accepted: socket.socket, observed: Address) -> None:
        try:
            async with asyncio.timeout(self._settings.handshake_seconds):
                await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
                await self._serve(connection, observed)
        except TimeoutError:
            self._refusals.warn(observed, f"no READY within {self._settings.handshake_seconds:g} s")
            connection.abort()
        except OSError as exc:
            self._refusals.warn(observed, f"lost at once ({exc.strerror or exc})")
            accepted.close()
        except asyncio.CancelledError:
            connection.abort()
            accepted.close()
            raise
        finally:
            # A refused connection still counts until its socket is gone.
            if connection.closing and not connection.closed.done():
                connection.closed.add_done_callback(lambda _: self._leave(connection))
            else:
                self._leave(connection)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("%s failed", task.get_name(), exc_info=task.exception())
