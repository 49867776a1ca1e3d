"""A file of which some chunks are on this disk: a sparse file beside a table of what it should hold.

``X.partial`` has the size of the whole file and holes where chunks are missing; ``X.held`` says which chunks count.
A chunk counts when its digest was right and its bytes were flushed to the disk. Knows no network.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from swarm.errors import ModelError
from swarm.models.atomic import write_atomically
from swarm.models.chunks import CHUNK_BYTES, chunk_count, entry_of
from swarm.models.manifest import FileEntry

log = logging.getLogger(__name__)

DATA_SUFFIX = ".partial"
STATE_SUFFIX = ".held"


class _State(msgspec.Struct, frozen=True):
    """What the disk says of a partial file. ``size`` and ``mtime_ns`` tell whether it changed since."""

    sha256: str
    size: int
    table: bytes
    held: bytes
    """One byte a chunk: 1 if it counts."""
    mtime_ns: int


class PartialFile:
    """One file of a model, opened for as long as its owner keeps it. Used by one thread at a time."""

    def __init__(self, path: Path, entry: FileEntry, table: bytes, held: bytearray) -> None:
        """``path`` is the whole file's; use ``create`` or ``open``."""
        self.path = path
        self.entry = entry
        self.table = table
        self._held = held
        self._dirty = False

    @classmethod
    def create(cls, path: Path, entry: FileEntry, table: bytes) -> PartialFile:
        """Open the partial file at ``path``, or make an empty one; one made by another table starts anew.

        Raises OSError.
        """
        found = cls.open(path, entry)
        if found is not None and found.table == table:
            return found
        path.parent.mkdir(parents=True, exist_ok=True)
        _state_path(path).unlink(missing_ok=True)
        with data_path(path).open("wb") as file:
            file.truncate(entry.size)
        made = cls(path, entry, table, bytearray(chunk_count(entry.size)))
        made._save()
        return made

    @classmethod
    def open(cls, path: Path, entry: FileEntry, *, check: bool = True) -> PartialFile | None:
        """Open what is there of ``entry``; None when nothing usable is.

        When the data changed since the state was written (a process killed in the middle, a hand from outside),
        every chunk is read again and counts only if it is right; without ``check`` the state is believed, as by
        those who give chunks to others that check them. Raises OSError.
        """
        try:
            state = msgspec.msgpack.decode(_state_path(path).read_bytes(), type=_State)
            found = data_path(path).stat()
            whole = FileEntry(entry.name, state.size, state.sha256)
        except (FileNotFoundError, msgspec.MsgspecError, ModelError):
            return None
        chunks = chunk_count(state.size)
        if entry != whole or found.st_size != state.size:
            return None
        if len(state.held) != chunks or len(state.table) != 32 * chunks:
            return None
        opened = cls(path, whole, state.table, bytearray(state.held))
        if check and found.st_mtime_ns != state.mtime_ns:
            opened.verify()
        return opened

    @property
    def complete(self) -> bool:
        return all(self._held)

    @property
    def held(self) -> list[int]:
        """The chunks that count, by their number within the file."""
        return [chunk for chunk, here in enumerate(self._held) if here]

    def holds(self, start: int, end: int) -> bool:
        """Say whether bytes ``start`` up to ``end`` are all here."""
        return all(self._held[start // CHUNK_BYTES : chunk_count(end)])

    def write(self, chunk: int, data: bytes | memoryview) -> bool:
        """Keep a chunk if its digest is right; say whether it was. It counts after the next ``commit``.

        Raises OSError.
        """
        if hashlib.sha256(data).digest() != entry_of(self.table, chunk):
            return False
        with data_path(self.path).open("r+b", buffering=0) as file:
            file.seek(chunk * CHUNK_BYTES)
            _write_all(file.fileno(), memoryview(data))
        self._held[chunk] = 1
        self._dirty = True
        return True

    def commit(self) -> None:
        """Flush what was written, and only then say that it is here. Raises OSError."""
        if self._dirty:
            with data_path(self.path).open("rb+") as file:
                os.fsync(file.fileno())
            self._save()

    def finish(self) -> bool:
        """Turn a complete file into the whole one if its SHA-256 is right; else delete it and return False.

        Raises OSError.
        """
        digest = hashlib.sha256()
        with data_path(self.path).open("rb") as file:
            while block := file.read(CHUNK_BYTES):
                digest.update(block)
        if digest.hexdigest() != self.entry.sha256:
            self.remove()
            return False
        data_path(self.path).replace(self.path)
        _state_path(self.path).unlink(missing_ok=True)
        return True

    def remove(self) -> None:
        _state_path(self.path).unlink(missing_ok=True)
        data_path(self.path).unlink(missing_ok=True)

    def verify(self) -> list[int]:
        """Read every chunk again; return those that counted and no longer do. Raises OSError."""
        right = bytearray(len(self._held))
        with data_path(self.path).open("rb") as file:
            for chunk in list(_chunks_with_data(file.fileno(), self.entry.size)):
                file.seek(chunk * CHUNK_BYTES)
                data = file.read(CHUNK_BYTES)
                right[chunk] = hashlib.sha256(data).digest() == entry_of(self.table, chunk)
        lost = [chunk for chunk in self.held if not right[chunk]]
        if lost:
            log.warning("%s was changed: %d of its chunks no longer count", self.path, len(lost))
        self._held = right
        self._save()
        return lost

    def _save(self) -> None:
        found = data_path(self.path).stat()
        state = _State(self.entry.sha256, found.st_size, self.table, bytes(self._held), found.st_mtime_ns)
        write_atomically(_state_path(self.path), msgspec.msgpack.encode(state))
        self._dirty = False


def data_path(path: Path) -> Path:
    """Return where the chunks of the file at ``path`` are while some are missing."""
    return path.with_name(path.name + DATA_SUFFIX)


def present(path: Path) -> Path:
    """Return the file at ``path``, or the partial one when only that is there."""
    return path if path.is_file() or not data_path(path).is_file() else data_path(path)


def _state_path(path: Path) -> Path:
    return path.with_name(path.name + STATE_SUFFIX)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _chunks_with_data(descriptor: int, size: int) -> Iterable[int]:
    """Yield the chunks that are not holes, where the system can tell; else all."""
    if not hasattr(os, "SEEK_DATA"):
        return range(chunk_count(size))
    return _touched(descriptor, size)


def _touched(descriptor: int, size: int) -> Iterator[int]:
    done, at = -1, 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                return  # nothing but a hole up to the end
            raise
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        first = max(start // CHUNK_BYTES, done + 1)
        done = max(done, chunk_count(at) - 1)
        yield from range(first, done + 1)
