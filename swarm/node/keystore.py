"""The state folder: node key, swarm secret and incarnation, private to one user and one process.

Knows nothing of links or gossip; what keys and secrets mean, swarm.protocol.identity knows.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated

import msgspec
import platformdirs
from filelock import FileLock, Timeout

from swarm.errors import ConfigError
from swarm.protocol.identity import SECRET_BYTES, Keyring, NodeKey

log = logging.getLogger("swarm.node")

NODE_KEY_FILE = "node.key"
SECRET_FILE = "swarm.key"
INCARNATION_FILE = "incarnation"
CHUNK_ROOTS_FILE = "chunk-roots.json"
LOCK_FILE = "lock"
PID_FILE = "pid"
SEED_BYTES = 32
_Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


def default_state_folder() -> Path:
    """Return the platform's folder for the state of programs, for swarm."""
    return platformdirs.user_state_path("swarm", appauthor=False)


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who this node is and which swarms it belongs to."""

    key: NodeKey
    keyring: Keyring
    secret_path: Path | None
    """The file the swarm secret was read from or written to; None when it came from the environment."""
    created_secret: bool


class Keystore:
    """One state folder. ``open`` claims it for this process until ``close``, which ``with`` calls too."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = default_state_folder() if folder is None else folder.expanduser().absolute()
        self._is_default = folder is None
        self._lock = FileLock(self.folder / LOCK_FILE, timeout=0, mode=0o600)

    def __enter__(self) -> Keystore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self, create_secret: bool, swarm_key_file: str, environ_key: str | None) -> NodeIdentity:
        """Claim the folder and return what is in it; the node key is made when missing.

        The secret is that of ``swarm_key_file``, else of ``environ_key`` (64 hex digits), else the folder's
        own, which is made when missing and ``create_secret``. Raises ConfigError when the folder is in use,
        there is no secret, or a file can't be read or is malformed; no message repeats a secret.
        """
        self._claim()
        try:
            key = self._node_key()
            keyring, path, created = self._swarm_secret(create_secret, swarm_key_file, environ_key)
        except BaseException:
            self.close()
            raise
        return NodeIdentity(key, keyring, path, created)

    def claim(self) -> NodeKey:
        """Claim the folder and return the node's key, for a newcomer that has no secret yet; see ``open``."""
        self._claim()
        try:
            return self._node_key()
        except BaseException:
            self.close()
            raise

    def own_keyring(self) -> Keyring | None:
        """Return the secrets in the folder itself, None when there are none. Raises ConfigError like ``open``."""
        path = self.folder / SECRET_FILE
        content = read_secret_file(path)
        return None if content is None else _keyring(content, str(path))

    def save_keyring(self, keyring: Keyring) -> None:
        """Write the swarm's secrets, as an invite brought them. Raises ConfigError rather than replace others."""
        known = self.own_keyring()
        if known is not None and known.find(keyring.preferred.swarm_id) is None:
            raise ConfigError(
                f"{self.folder} holds the secret of another swarm; join this one with a state folder of its own: "
                "--state FOLDER"
            )
        lines = "".join(f"{secret.hex()}\n" for secret in keyring.secrets)
        _write(self.folder / SECRET_FILE, lines.encode())

    def chunk_roots(self) -> dict[str, str]:
        """Return what invites brought: digest of a model -> its chunk root. Raises ConfigError for a malformed file."""
        path = self.folder / CHUNK_ROOTS_FILE
        content = _read(path)
        if content is None:
            return {}
        try:
            return msgspec.json.decode(content, type=dict[_Hex, _Hex])
        except msgspec.MsgspecError as exc:
            raise ConfigError(f"{path} is damaged ({exc}); delete it, or take another invite") from None

    def save_chunk_roots(self, brought: Mapping[str, str]) -> None:
        """Add what an invite brought; the last one counts."""
        if brought:
            _write(self.folder / CHUNK_ROOTS_FILE, msgspec.json.encode({**self.chunk_roots(), **brought}))

    def close(self) -> None:
        """Let another process use the folder. Safe to call twice."""
        self._lock.release(force=True)

    def load_incarnation(self) -> int:
        """Return the last incarnation saved, 0 if none was. Raises ConfigError when the file is malformed."""
        path = self.folder / INCARNATION_FILE
        content = _read(path)
        if content is None:
            return 0
        text = content.decode("ascii", "replace").strip()
        if not text.isdecimal() or len(text) > 18:
            raise ConfigError(
                f"{path} does not hold a number; delete it, the swarm remembers this node's incarnation"
            )
        return int(text)

    def save_incarnation(self, value: int) -> None:
        """Write the incarnation so that it survives a power cut."""
        _write(self.folder / INCARNATION_FILE, f"{value}\n".encode())

    def _claim(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"can't make the state folder {self.folder}: {exc.strerror or exc}") from None
        _warn_if_open_to_others(self.folder)
        try:
            self._lock.acquire()
        except Timeout:
            raise self._in_use() from None
        except OSError as exc:
            raise ConfigError(f"can't lock the state folder {self.folder}: {exc.strerror or exc}") from None
        _write(self.folder / PID_FILE, f"{os.getpid()}\n".encode())

    def _in_use(self) -> ConfigError:
        pid = (_read(self.folder / PID_FILE) or b"").decode("ascii", "replace").strip()
        whose = f"process {pid}" if pid.isdecimal() else "another process"
        advice = (
            "start a second node on this machine with a state folder of its own: --state FOLDER"
            if self._is_default
            else "give each node a --state FOLDER of its own"
        )
        return ConfigError(f"the state folder {self.folder} is in use by {whose}; {advice}")

    def _node_key(self) -> NodeKey:
        path = self.folder / NODE_KEY_FILE
        seed = read_secret_file(path)
        if seed is None:
            seed = secrets.token_bytes(SEED_BYTES)
            _write(path, seed)
        try:
            return NodeKey.from_seed(seed)
        except ValueError:
            raise ConfigError(
                f"{path} is not a node key: it has {len(seed)} bytes, not {SEED_BYTES}; "
                "delete it to get a new identity"
            ) from None

    def _swarm_secret(
        self, create: bool, swarm_key_file: str, environ_key: str | None
    ) -> tuple[Keyring, Path | None, bool]:
        if swarm_key_file:
            path = Path(swarm_key_file).expanduser().absolute()
            content = read_secret_file(path)
            if content is None:
                raise ConfigError(f"there is no swarm key file {path}")
            return _keyring(content, str(path)), path, False
        if environ_key:
            return _keyring(environ_key.encode(), "SWARM_KEY"), None, False
        path = self.folder / SECRET_FILE
        content = read_secret_file(path)
        if content is not None:
            return _keyring(content, str(path)), path, False
        if not create:
            raise ConfigError(
                f"no swarm secret: {path} does not exist. Ask a member for an invite (`python -m swarm invite`) and "
                "join with it, or name a copy of its file swarm.key with --swarm-key-file"
            )
        content = f"{secrets.token_hex(SECRET_BYTES)}\n".encode()
        _write(path, content)
        return _keyring(content, str(path)), path, True


def _keyring(content: bytes, source: str) -> Keyring:
    try:
        return Keyring.parse(content.decode("ascii"))
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: not text; a swarm secret is 64 hex digits") from None
    except ValueError as exc:
        raise ConfigError(f"{source}: {exc}") from None


def read_secret_file(path: Path) -> bytes | None:
    """Return the file's bytes, None when there is no such file; warn when other users can read it too.

    Raises ConfigError when it can't be read.
    """
    content = _read(path)
    if content is not None:
        _warn_if_open_to_others(path)
    return content


def _read(path: Path) -> bytes | None:
    """Return the file's bytes, None when there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(f"can't read {path}: {exc.strerror or exc}") from None


def _write(path: Path, content: bytes) -> None:
    """Replace a file in one step, for its owner only; on return it is on the disk."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()
            raise
        _sync_folder(path.parent)
    except OSError as exc:
        raise ConfigError(f"can't write {path}: {exc.strerror or exc}") from None


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows can't fsync a folder; its rename is journalled
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _warn_if_open_to_others(path: Path) -> None:
    if os.name == "nt":
        return  # the profile folder's access list keeps others out; mode bits say nothing there
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        private = "700" if path.is_dir() else "600"
        log.warning("%s is open to other users (mode %o); run: chmod %s %s", path, mode, private, path)
