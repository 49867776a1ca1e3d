"""What a hop has sent on, kept to be sent again to a hop that takes the next one's place. Pure; holds references.

Rows are kept as the bytes that were sent, never copied until they are replayed; the log follows the KV: what the KV
forgets is forgotten here.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter

Payload = bytes | bytearray | memoryview

ENTRY_BYTES = 200
"""About what Python needs for an entry beside its rows."""


class OutputLog:
    """The output rows of the positions ``start`` up to but not including ``end``."""

    __slots__ = ("_entries", "bytes", "end", "start")

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.bytes = 0
        self._entries: list[tuple[int, int, Payload]] = []

    def append(self, position: int, count: int, rows: Payload) -> int:
        """Take the rows of a computed step, in place of what was from ``position`` on; return the growth in bytes."""
        before = self.bytes
        if position < self.end:
            self.truncate(position)
        if position != self.end:
            self.clear(position)
        self._entries.append((position, count, rows))
        self.end = position + count
        self.bytes += len(rows) + ENTRY_BYTES
        return self.bytes - before

    def truncate(self, length: int) -> None:
        """Forget all rows from ``length`` on."""
        entries = self._entries
        while entries and entries[-1][0] >= length:
            self.bytes -= len(entries.pop()[2]) + ENTRY_BYTES
        if entries and self.end > length:
            position, count, rows = entries[-1]
            kept = length - position
            cut = memoryview(rows)[: len(rows) // count * kept] if kept < count else rows
            self.bytes -= len(rows) - len(cut)
            entries[-1] = (position, min(count, kept), cut)
        self.end = min(self.end, length)
        self.start = min(self.start, self.end)

    def clear(self, start: int) -> None:
        """Forget everything; what comes next is at ``start``."""
        self._entries.clear()
        self.bytes = 0
        self.start = self.end = start

    def rows(self, position: int, count: int) -> bytes | None:
        """Return the rows of ``count`` positions from ``position`` on, joined; None if some are not held."""
        end = position + count
        if not self.start <= position < end <= self.end:
            return None
        parts = []
        first = bisect_right(self._entries, position, key=itemgetter(0)) - 1
        for index in range(first, len(self._entries)):
            at, held, rows = self._entries[index]
            if at >= end:
                break
            size = len(rows) // held
            parts.append(memoryview(rows)[max(0, position - at) * size : min(held, end - at) * size])
        return b"".join(parts)
