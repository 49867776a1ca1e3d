"""A listing of files cut into numbered chunks, each with a digest of its own. Reads no file, knows no peer.

Every file is cut by itself, from its beginning, so a chunk never spans two; chunks are numbered through the files
in the order of their names. Digest and number together name the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from swarm.models.manifest import FileEntry, digest_of

CHUNK_BYTES = 1024 * 1024
DIGEST_BYTES = 32

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges of numbers, in order, none empty, none touching the next."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk lies: which file of the listing, which chunk of that file, and its bytes there."""

    file: int
    chunk: int
    start: int
    octets: int


class Chunks:
    """The chunks of one listing."""

    def __init__(self, files: Iterable[FileEntry]) -> None:
        self.files = tuple(sorted(files))
        self.digest = digest_of(self.files)
        self._ends = tuple(accumulate(chunk_count(entry.size) for entry in self.files))
        self.total = self._ends[-1] if self._ends else 0

    def place(self, index: int) -> Place:
        """Return where a chunk lies. Raises IndexError for a number that the listing does not reach."""
        if not 0 <= index < self.total:
            raise IndexError(index)
        file = bisect_right(self._ends, index)
        chunk = index - self.first(file)
        start = chunk * CHUNK_BYTES
        return Place(file, chunk, start, min(CHUNK_BYTES, self.files[file].size - start))

    def first(self, file: int) -> int:
        """Return the number of a file's first chunk."""
        return self._ends[file - 1] if file else 0

    def of_file(self, file: int) -> range:
        """Return the numbers of a file's chunks."""
        return range(self.first(file), self._ends[file])

    def of_bytes(self, file: int, start: int, end: int) -> range:
        """Return the numbers of the chunks that bytes ``start`` up to ``end`` of a file touch."""
        first = self.first(file)
        return range(first + start // CHUNK_BYTES, first + chunk_count(end)) if end > start else range(0)

    def index_of(self, name: str) -> int | None:
        """Return the place of a file in the listing; None for one that is not of it."""
        return next((at for at, entry in enumerate(self.files) if entry.name == name), None)

    def root(self, roots: Sequence[str]) -> str:
        """Return the chunk root by these roots of the files; empty when one that counts is missing or they are too few.

        A file of one chunk needs none: its own digest is that chunk's.
        """
        if len(roots) != len(self.files):
            return ""
        known = [
            root
            if entry.size > CHUNK_BYTES
            else table_root(bytes.fromhex(entry.sha256) if entry.size else b"")
            for entry, root in zip(self.files, roots, strict=True)
        ]
        return chunk_root(self.digest, known) if all(known) else ""

    def octets(self, indices: Iterable[int]) -> int:
        return sum(self.place(index).octets for index in indices)


def chunk_count(size: int) -> int:
    """Return how many chunks a file of ``size`` bytes has."""
    return -(-size // CHUNK_BYTES)


def table_root(table: bytes) -> str:
    """Return the SHA-256 (hex) that stands for a file's table: the digests of its chunks, 32 bytes each."""
    return hashlib.sha256(b"swarm-chunks/1\n" + table).hexdigest()


def chunk_root(digest: str, roots: Iterable[str]) -> str:
    """Return the SHA-256 (hex) that stands for all chunks of a listing: of its digest and its files' roots."""
    return hashlib.sha256("\n".join(("swarm-model-chunks/1", digest, *roots)).encode()).hexdigest()


def entry_of(table: bytes, chunk: int) -> bytes:
    return table[chunk * DIGEST_BYTES : (chunk + 1) * DIGEST_BYTES]


def ranges_of(numbers: Iterable[int]) -> Ranges:
    """Return numbers as the fewest ranges."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return tuple(found)


def numbers_of(ranges: Ranges) -> set[int]:
    return {number for start, end in ranges for number in range(start, end)}
