"""Giving freed memory back to the operating system. Knows no tensors."""

from __future__ import annotations

import ctypes
import gc


def release_freed_memory() -> None:
    """Free what loading used for a moment, and return it where the C library offers that (glibc keeps it)."""
    gc.collect()  # the discarded parts of a transformers model refer to each other
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # macOS, musl; Windows refuses CDLL(None)
        return
    trim(0)
