"""Which ended sequences' keys and values are kept, under which block names. Pure accounting; holds no tensors.

An entry is the KV of one ended sequence. A new sequence that begins with the same blocks takes the entry over, or
copies its beginning where most of the entry would be lost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from swarm.engine.jobs import SequenceKey

TAKE_OVER_SHARE = 0.5
"""An entry is taken over when at least that part of it is the new sequence's prefix, else its prefix is copied."""

Scope = tuple[Hashable, ...]
"""What must be equal before names are compared: who named the blocks, and which layers computed them."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One ended sequence: its blocks' names in order, and the tokens they cover."""

    key: SequenceKey
    scope: Scope
    names: tuple[bytes, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Hit:
    """``tokens`` leading tokens of ``key``'s KV are what a new sequence begins with."""

    key: SequenceKey
    tokens: int
    take_over: bool


class PrefixIndex:
    """Kept sequences, least recently used first."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._kept: OrderedDict[SequenceKey, Kept] = OrderedDict()
        self._places: dict[tuple[Scope, bytes], list[SequenceKey]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: SequenceKey, scope: Scope, names: Sequence[bytes]) -> None:
        kept = Kept(key, scope, tuple(names), len(names) * self._block_tokens)
        self._kept[key] = kept
        for name in kept.names:
            self._places.setdefault((scope, name), []).append(key)

    def find(self, scope: Scope, names: Sequence[bytes]) -> Hit | None:
        """Return the longest kept prefix of ``names``; names chain, so the last equal one decides."""
        for count in range(len(names), 0, -1):
            keys = self._places.get((scope, names[count - 1]))
            if keys:
                kept = self._kept[keys[-1]]
                self._kept.move_to_end(kept.key)
                tokens = count * self._block_tokens
                return Hit(kept.key, tokens, tokens >= TAKE_OVER_SHARE * kept.tokens)
        return None

    def pop(self, key: SequenceKey) -> Kept:
        """Forget an entry and return it. Raises KeyError for one that is not kept."""
        kept = self._kept.pop(key)
        for name in kept.names:
            keys = self._places[kept.scope, name]
            keys.remove(key)
            if not keys:
                del self._places[kept.scope, name]
        return kept

    def keys_where(self, wanted: Callable[[Scope], bool]) -> list[SequenceKey]:
        return [kept.key for kept in self._kept.values() if wanted(kept.scope)]

    def oldest(self) -> SequenceKey | None:
        """Return the entry to evict first."""
        return next(iter(self._kept), None)
