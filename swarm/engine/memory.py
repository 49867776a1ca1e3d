"""What the operating system does with this process's memory: freed memory goes back, weights get huge pages.

Knows no tensors.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_HUGE = 2 << 20
"""Bytes of a huge page of x86-64 and of arm64 with pages of 4 KiB; with others the kernel refuses."""

_MADV_HUGEPAGE = 14
_MADV_COLLAPSE = 25
"""From <linux/mman.h>: allow huge pages, and make them now (Linux 6.1)."""

_RESIDENT_SHARE = 0.9
"""Of a mapping, so much must be in memory already: collapsing fills in what was never touched."""

_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SMAPS = Path("/proc/self/smaps")


def release_freed_memory() -> None:
    """Free what loading used for a moment, and return it where the C library offers that (glibc keeps it)."""
    gc.collect()  # the discarded parts of a transformers model refer to each other
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # macOS, musl; Windows refuses CDLL(None)
        return
    trim(0)


def use_huge_pages(go_on: Callable[[], bool] = lambda: True) -> int:
    """Back this process's large private memory with huge pages; return the bytes that are now.

    A step reads all weights once, so with pages of 4 KiB it walks the page table for each 4 KiB of them, and after
    another process has run (the next hop of this machine) that table is no longer in the caches either. Linux only;
    0 elsewhere and where the administrator switched huge pages off. The memory is copied: seconds for gigabytes, in
    which the GIL is free. ``go_on`` is asked before each page.
    """
    try:
        if "[never]" in _SWITCH.read_text(encoding="ascii"):
            return 0
        lines = _SMAPS.read_text(encoding="utf-8", errors="replace").splitlines()
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return 0
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return sum(_collapse(advise, start, end, go_on) for start, end in large_private_mappings(lines))


def large_private_mappings(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield [start, end) of each anonymous, writable, resident mapping, cut to whole huge pages.

    ``smaps`` has the lines of /proc/PID/smaps (proc(5)).
    """
    start = end = 0
    for line in smaps:
        words = line.split()
        if words and "-" in words[0] and not words[0].endswith(":"):
            start = end = 0
            private = words[1] == "rw-p" and words[4] == "0" and not line.rstrip().endswith("[stack]")
            if private:
                start, end = (int(edge, 16) for edge in words[0].split("-"))
        elif words and words[0] == "Rss:" and int(words[1]) * 1024 >= _RESIDENT_SHARE * (end - start) > 0:
            first, last = -(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE
            if first < last:
                yield first, last


def _collapse(advise: Callable[[int, int, int], int], start: int, end: int, go_on: Callable[[], bool]) -> int:
    """Return how many bytes of the mapping huge pages hold; that it is unmapped meanwhile does no harm."""
    if advise(start, end - start, _MADV_HUGEPAGE) != 0:
        return 0
    pages = range(start, end, _HUGE)
    return sum(_HUGE for page in pages if go_on() and advise(page, _HUGE, _MADV_COLLAPSE) == 0)
