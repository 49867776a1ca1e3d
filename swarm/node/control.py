"""Control of a running node by its own user: a socket in the state folder, never the HTTP port.

One JSON line asks, one JSON line answers. Who may open the socket (mode 0600 in a folder of mode 0700; on Windows a
named pipe that only its owner may write to) may control the node. Knows no command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from swarm.errors import ConfigError, SwarmError

log = logging.getLogger("swarm.node")

SOCKET_FILE = "control.sock"
MAX_LINE_BYTES = 1 << 20
ANSWER_SECONDS = 600.0
_MAX_SOCKET_PATH = 100
"""Below what any system allows (104 bytes on macOS, 108 on Linux)."""


class Request(msgspec.Struct, frozen=True, tag_field="do", forbid_unknown_fields=True):
    """What a node can be asked for by its own user."""


class GetState(Request, frozen=True, tag="state"):
    """Answers what /swarm/state does, with details."""


class MakeInvite(Request, frozen=True, tag="invite"):
    """Answers ``invite``, a string for one machine, and ``addresses``, where it leads."""

    minutes: float = 15.0


class Stop(Request, frozen=True, tag="stop"):
    """Leave the swarm in good order and end the process."""


class PullModel(Request, frozen=True, tag="pull"):
    """Get a model's weights onto this machine's disk, from members or the hub; asked again, say how far that is.

    Answers what ``node.pulls`` says.
    """

    name: str
    layers: str = ""
    """``A:B``; empty: all."""
    ends: bool = True


class OpenDoor(Request, frozen=True, tag="open-door"):
    """Open the front door at ``listen`` ([HOST:]PORT), or move it there. Answers ``listen`` as bound."""

    listen: str = ""
    """Empty: where it was, or where the settings say, or port 8000 of loopback."""
    keys: tuple[str, ...] | None = None
    """The API keys from now on; None keeps those in force."""


class CloseDoor(Request, frozen=True, tag="close-door"):
    """Close the front door; running answers get a few seconds to end."""


class ChangeKeys(Request, frozen=True, tag="keys"):
    """Add and remove API keys without a pause, until the node ends. Answers ``keys``: their ids and names."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    """Ids, names, or the keys themselves."""


class SetLayers(Request, frozen=True, tag="layers"):
    """Hold other layers of a model from now on; answers when that is done: what the node then holds of it."""

    layers: str
    """A:B, auto or none."""
    model: str = ""
    """May be empty where only one can be meant."""
    force: bool = False
    """Also where layers are left to nobody."""


AnyRequest = GetState | MakeInvite | PullModel | Stop | OpenDoor | CloseDoor | ChangeKeys | SetLayers
Handler = Callable[[AnyRequest], Awaitable[dict[str, Any]]]
_requests = msgspec.json.Decoder(AnyRequest)


class NodeRefusedError(SwarmError):
    """What the node said instead of doing what it was asked for; ``kind`` is the name of its own error's class."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class ControlServer:
    """Answers requests one after the other on each connection, until ``aclose``."""

    def __init__(self, folder: Path, handle: Handler) -> None:
        self._path = socket_path(folder)
        self._handle = handle
        self._server: asyncio.AbstractServer | None = None
        self._pipes: list[Any] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises ConfigError when the socket can't be made."""
        try:
            if sys.platform == "win32":
                self._pipes = await _serve_pipe(self._path, self._accepted)
            else:
                # The state folder's lock is ours: a socket that lies there is of a process that is gone.
                _remove(self._path)
                before = os.umask(0o177)
                try:
                    self._server = await asyncio.start_unix_server(
                        self._accepted, self._path, limit=MAX_LINE_BYTES
                    )
                finally:
                    os.umask(before)
        except OSError as exc:
            raise ConfigError(f"can't make the control socket {self._path}: {exc.strerror or exc}") from None

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        for pipe in self._pipes:
            pipe.close()
        # Who asked for the stop gets its answer first.
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=0.5)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._server is not None:
            with contextlib.suppress(OSError):
                _remove(self._path)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await _line(reader):
                writer.write(msgspec.json.encode(await self._answer(line)) + b"\n")
                await writer.drain()
        except ConnectionError as exc:
            log.debug("a control connection broke: %s", exc)
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            return {"ok": await self._handle(_requests.decode(line))}
        except (msgspec.ValidationError, msgspec.DecodeError) as exc:
            return {"error": f"this node does not know that request: {exc}"}
        except SwarmError as exc:
            return {"error": str(exc), "kind": type(exc).__name__}


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Return the next line, nothing at the end and for a line that is too long."""
    try:
        return await reader.readline()
    except ValueError:
        log.warning("a control connection sent a line of more than %d bytes", MAX_LINE_BYTES)
        return b""


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


async def _serve_pipe(path: str, accepted: Callable[..., None]) -> list[Any]:
    loop: Any = asyncio.get_running_loop()

    def protocol() -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=MAX_LINE_BYTES, loop=loop)
        return asyncio.StreamReaderProtocol(reader, accepted, loop=loop)

    return list(await loop.start_serving_pipe(protocol, path))


def socket_path(folder: Path) -> str:
    """Return where the node with this state folder is controlled.

    A path too long for a socket is replaced by a short one in a private folder of the system's temporary one.
    """
    folder = folder.absolute()
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]
    if sys.platform == "win32":
        return rf"\\.\pipe\swarm-{name}"
    path = folder / SOCKET_FILE
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return str(path)
    private = Path(tempfile.gettempdir()) / f"swarm-{os.getuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    seen = private.lstat()
    if seen.st_uid != os.getuid() or seen.st_mode & 0o077:
        raise ConfigError(f"{private} belongs to someone else or is open to others; delete it")
    return str(private / f"{name}.sock")


def ask(folder: Path, request: AnyRequest, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
    """Ask the node that runs with this state folder, and wait for its answer; for layers as long as they take.

    Raises ConfigError when none runs, NodeRefusedError with what the node says when it refuses, SwarmError otherwise.
    """
    try:
        patience = None if isinstance(request, SetLayers) else seconds
        answered = _exchange(socket_path(folder), msgspec.json.encode(request) + b"\n", patience)
    except (FileNotFoundError, ConnectionRefusedError):
        raise ConfigError(
            f"no node runs with the state folder {folder}; start one with `python -m swarm join`, or name its "
            "folder with --state"
        ) from None
    except PermissionError:
        raise ConfigError(f"the node of {folder} belongs to another user of this machine") from None
    except OSError as exc:
        raise SwarmError(f"the node of {folder} does not answer: {exc.strerror or exc}") from None
    answer: dict[str, Any] = msgspec.json.decode(answered)
    if "error" in answer:
        raise NodeRefusedError(str(answer["error"]), str(answer.get("kind", "")))
    found: dict[str, Any] = answer["ok"]
    return found


def _exchange(path: str, line: bytes, seconds: float | None) -> bytes:
    if sys.platform == "win32":
        with open(path, "r+b", buffering=0) as pipe:
            pipe.write(line)
            return _line_of(pipe.read)
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.sendall(line)
        return _line_of(connection.recv)


def _line_of(read: Callable[[int], bytes]) -> bytes:
    """Read to the end of the line. Raises ConnectionError when there is none."""
    data = b""
    while not data.endswith(b"\n"):
        more = read(1 << 16)
        if not more:
            raise ConnectionResetError("it closed the connection without an answer")
        data += more
    return data
