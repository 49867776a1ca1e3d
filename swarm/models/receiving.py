"""A model's files as they arrive from others, chunk by chunk, in the folder where they will be used.

All methods block, and are called by one thread at a time. Knows no peer.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from swarm.errors import ModelError
from swarm.models.atomic import write_atomically
from swarm.models.chunks import Chunks
from swarm.models.folder import MANIFEST_NAME, HashCache, inside
from swarm.models.manifest import encode_files
from swarm.models.partial import PartialFile
from swarm.models.shared import keep_roots


class Receiving:
    """The files of one listing, as far as they are in ``folder``."""

    def __init__(self, folder: Path, chunks: Chunks, cache: HashCache) -> None:
        self.folder = folder
        self.chunks = chunks
        self._cache = cache
        self._partial: dict[int, PartialFile] = {}
        self._whole: set[int] = set()

    def keep_listing(self) -> None:
        """Write down which model the folder is going to hold, unless it says so already."""
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / MANIFEST_NAME).is_file():
                write_atomically(self.folder / MANIFEST_NAME, encode_files(self.chunks.files))

    def keep_roots(self, roots: Sequence[str]) -> None:
        """Write down the proven roots of the files' tables, for members that will take their parts from here."""
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            keep_roots(self.folder, self.chunks.digest, roots)

    def whole(self, file: int) -> bool:
        """Say whether a file is here under its own name: it got that when its SHA-256 was right."""
        if file not in self._whole:
            entry = self.chunks.files[file]
            path = inside(self.folder, entry.name)
            if path.is_file() and path.stat().st_size == entry.size:
                self._whole.add(file)
        return file in self._whole

    def begin(self, file: int, table: bytes | None = None) -> bool:
        """Open a file that is here in part, or with a ``table`` begin it; say whether it is open now."""
        known = self._partial.get(file)
        if known is None or (table is not None and known.table != table):
            entry = self.chunks.files[file]
            path = inside(self.folder, entry.name)
            with explained(self.folder):
                opened = (
                    PartialFile.open(path, entry) if table is None else PartialFile.create(path, entry, table)
                )
            if opened is not None:
                self._partial[file] = opened
        return file in self._partial

    def table(self, file: int) -> bytes:
        """Return the table by which an open file is checked."""
        return self._partial[file].table

    def held(self, indices: Collection[int]) -> set[int]:
        """Return which of these chunks are here."""
        found = set()
        for index in indices:
            place = self.chunks.place(index)
            partial = self._partial.get(place.file)
            if self.whole(place.file) or (
                partial is not None and partial.holds(place.start, place.start + place.octets)
            ):
                found.add(index)
        return found

    def check_room(self, octets: int, name: str) -> None:
        """Raise ModelError when the disk has no room for ``octets`` more."""
        free = shutil.disk_usage(self.folder).free
        if octets > free:
            raise ModelError(
                f"{name} needs {octets / 1e9:.2f} GB more in {self.folder}, {free / 1e9:.2f} GB are free"
            )

    def write(self, index: int, data: bytes | memoryview) -> bool:
        """Keep a chunk; say whether it was what its digest says. Raises ModelError when the disk refuses it."""
        place = self.chunks.place(index)
        with explained(self.folder):
            return len(data) == place.octets and self._partial[place.file].write(place.chunk, data)

    def commit(self) -> None:
        """Flush what came since the last time: only now it counts."""
        with explained(self.folder):
            for partial in self._partial.values():
                partial.commit()

    def finish(self) -> list[int]:
        """Give every file that is complete its own name; return those whose SHA-256 was wrong, deleted."""
        wrong = []
        with explained(self.folder):
            for file, partial in list(self._partial.items()):
                partial.commit()
                if partial.complete:
                    del self._partial[file]
                    if partial.finish():
                        # It was read this moment: nobody needs to hash it again.
                        self._cache.remember(partial.path, partial.entry.sha256, partial.table)
                    else:
                        wrong.append(file)
        return wrong


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn a disk that refuses into one sentence."""
    try:
        yield
    except OSError as exc:
        if exc.errno == errno.ENOSPC:
            raise ModelError(
                f"the disk is full: {folder} can't be written; make room and start again, what came is kept"
            ) from exc
        raise ModelError(f"{exc.filename or folder} can't be written: {exc.strerror or exc}") from exc
