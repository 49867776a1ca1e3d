"""A model's files as they are given to others: what of them is here, the digests of their chunks, their bytes.

All methods block. Knows no peer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import ModelError
from swarm.models.chunks import CHUNK_BYTES, Chunks, Ranges, ranges_of
from swarm.models.folder import HashCache, inside
from swarm.models.manifest import FileEntry, is_companion
from swarm.models.partial import PartialFile, present

MAX_COMPANION_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileState:
    """What is here of a file; ``table`` is empty when nothing is."""

    entry: FileEntry
    table: bytes
    held: Ranges


class SharedListing:
    """The files of one listing in one folder."""

    def __init__(self, folder: Path, files: Iterable[FileEntry], cache: HashCache) -> None:
        self.folder = folder
        self.chunks = Chunks(files)
        self._cache = cache

    def states(self) -> tuple[FileState, ...]:
        """Return what is here of every file, now. Raises OSError and ModelError."""
        return tuple(self._state(entry) for entry in self.chunks.files)

    def table(self, file: int) -> bytes:
        """Return the table of a file, empty when it is not known here. Raises OSError and ModelError."""
        return self._state(self.chunks.files[file]).table if 0 <= file < len(self.chunks.files) else b""

    def read(self, index: int) -> bytes | None:
        """Return a chunk's bytes, not checked again: their receiver does. None when they are not here.

        Raises OSError and ModelError.
        """
        if not 0 <= index < self.chunks.total:
            return None
        place = self.chunks.place(index)
        entry = self.chunks.files[place.file]
        path = inside(self.folder, entry.name)
        if not path.is_file():
            partial = PartialFile.open(path, entry, check=False)
            if partial is None or not partial.holds(place.start, place.start + place.octets):
                return None
        with present(path).open("rb") as file:
            file.seek(place.start)
            data = file.read(place.octets)
        return data if len(data) == place.octets else None

    def _state(self, entry: FileEntry) -> FileState:
        path = inside(self.folder, entry.name)
        if path.is_file():
            found = self._cache.hashed(path)
            count = -(-found.size // CHUNK_BYTES)
            same = FileEntry(entry.name, found.size, found.sha256) == entry
            return (
                FileState(entry, found.table, ((0, count),) if count else ())
                if same
                else FileState(entry, b"", ())
            )
        partial = PartialFile.open(path, entry, check=False)
        return (
            FileState(entry, partial.table, ranges_of(partial.held)) if partial else FileState(entry, b"", ())
        )


def companions_in(folder: Path, cache: HashCache) -> tuple[FileEntry, ...]:
    """Return the files that go along with the weights in ``folder``. Raises OSError and ModelError."""
    found = []
    for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        name = path.relative_to(folder).as_posix()
        if is_companion(name) and path.is_file() and path.stat().st_size <= MAX_COMPANION_BYTES:
            try:
                inside(folder, name)
            except ModelError:
                continue  # a link out of the folder is nobody else's business
            found.append(FileEntry(name, path.stat().st_size, cache.sha256(path)))
    return tuple(sorted(found))
