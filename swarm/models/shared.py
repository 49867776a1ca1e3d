"""A model's files as they are given to others: what of them is here, the digests of their chunks, their bytes.

All methods block. Knows no peer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from swarm.errors import ModelError
from swarm.models.atomic import write_atomically
from swarm.models.chunks import Chunks, Ranges, chunk_count, numbers_of, ranges_of, table_root
from swarm.models.folder import HashCache, inside
from swarm.models.manifest import FileEntry, is_companion
from swarm.models.partial import PartialFile, present

ROOTS_NAME = "swarm-chunks.json"
MAX_COMPANION_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileState:
    """What is here of a file; ``table`` is empty when nothing is.

    ``root`` stands for its table, and may be known although nothing is here; then it was proven.
    """

    entry: FileEntry
    table: bytes
    held: Ranges
    root: str


class SharedListing:
    """The files of one listing in one folder."""

    def __init__(self, folder: Path, files: Iterable[FileEntry], cache: HashCache) -> None:
        self.folder = folder
        self.chunks = Chunks(files)
        self._cache = cache

    def states(self) -> tuple[FileState, ...]:
        """Return what is here of every file, now. Raises OSError and ModelError."""
        kept = kept_roots(self.folder, self.chunks)
        return tuple(self._state(entry, root) for entry, root in zip(self.chunks.files, kept, strict=True))

    def root(self) -> str:
        """Return the chunk root of the listing, if this node vouches for it: every file is here whole, or the roots
        were proven when the files came; else an empty string. Raises OSError and ModelError.
        """
        if proven := self.chunks.root(kept_roots(self.folder, self.chunks)):
            return proven
        states = self.states()
        whole = all(numbers_of(state.held) == set(range(chunk_count(state.entry.size))) for state in states)
        return self.chunks.root([state.root for state in states]) if whole else ""

    def table(self, file: int) -> bytes:
        """Return the table of a file, empty when it is not known here. Raises OSError and ModelError."""
        return self._state(self.chunks.files[file], "").table if 0 <= file < len(self.chunks.files) else b""

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

    def _state(self, entry: FileEntry, root: str) -> FileState:
        """``root`` is what was proven of the file, if anything."""
        path = inside(self.folder, entry.name)
        table = b""
        held: Ranges = ()
        if path.is_file():
            found = self._cache.hashed(path)
            if FileEntry(entry.name, found.size, found.sha256) == entry:
                count = chunk_count(found.size)
                table, held = found.table, ((0, count),) if count else ()
        elif (partial := PartialFile.open(path, entry, check=False)) is not None:
            table, held = partial.table, ranges_of(partial.held)
        return FileState(entry, table, held, table_root(table) if held else root)


class _Kept(msgspec.Struct, frozen=True):
    digest: str
    roots: tuple[str, ...]


def keep_roots(folder: Path, digest: str, roots: Sequence[str]) -> None:
    """Write down the roots of the files' tables, in the listing's order, that a chunk root proved. Raises OSError."""
    write_atomically(folder / ROOTS_NAME, msgspec.json.encode(_Kept(digest, tuple(roots))))


def kept_roots(folder: Path, chunks: Chunks) -> tuple[str, ...]:
    """Return what ``keep_roots`` wrote for this listing, else as many empty strings. Raises OSError."""
    none = ("",) * len(chunks.files)
    try:
        found = msgspec.json.decode((folder / ROOTS_NAME).read_bytes(), type=_Kept)
    except (FileNotFoundError, msgspec.MsgspecError):
        return none
    return found.roots if found.digest == chunks.digest and len(found.roots) == len(none) else none


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
