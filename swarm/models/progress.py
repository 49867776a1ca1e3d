"""How long work reports how far it is. Knows no terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``; ``what`` stays the same over one piece of work."""


def silent(what: str, done: int, total: int) -> None:
    """A Progress that tells nobody."""
