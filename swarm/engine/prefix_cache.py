"""The KV budget shared by running sequences and kept ones, which make room for them. Holds no tensors.

Belongs to the event-loop thread, like the budget itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from swarm.engine.jobs import SequenceKey
from swarm.engine.kv_pool import KVBudget, KVLayout
from swarm.engine.prefix import PrefixIndex, Scope
from swarm.errors import KVFullError
from swarm.protocol.limits import PREFIX_BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Opening:
    """How a sequence begins: with ``hit_tokens`` of ``source``, if any; ``evicted`` made room for it."""

    tokens: int
    """Tokens there is room for, in whole blocks of the budget."""
    hit_tokens: int
    source: SequenceKey | None
    take_over: bool
    evicted: tuple[SequenceKey, ...]


class PrefixCache:
    """Kept sequences within ``share`` of the budget; the least recently used ones go first."""

    def __init__(self, budget: KVBudget, share: float) -> None:
        self._budget = budget
        self._share = share
        self._index = PrefixIndex(PREFIX_BLOCK_TOKENS)
        self._scopes: dict[SequenceKey, Scope] = {}
        self._numbers = itertools.count()
        self.kept_bytes = 0

    @property
    def _most_bytes(self) -> int:
        return int(self._budget.budget_bytes * self._share)

    def __len__(self) -> int:
        return len(self._index)

    def open(
        self, key: SequenceKey, scope: Scope, layout: KVLayout, tokens: int, names: Sequence[bytes]
    ) -> Opening:
        """Reserve room for a sequence and find what it may begin with. Raises KVFullError; then all is as before."""
        hit = self._index.find(scope, names)
        if hit is not None and hit.take_over:
            kept = self._index.pop(hit.key)
            size = self._budget.bytes_of(hit.key)
            self.kept_bytes -= size
            self._budget.hand_over(hit.key, key)
            try:
                reserved, evicted = self.reserve(key, layout, tokens)
            except KVFullError:
                self._budget.hand_over(key, hit.key)
                self.kept_bytes += size
                self._index.keep(hit.key, kept.scope, kept.names)
                raise
        else:
            reserved, evicted = self.reserve(key, layout, tokens)
            if hit is not None and hit.key in evicted:
                hit = None
        self._scopes[key] = scope
        if hit is None:
            return Opening(reserved, 0, None, False, evicted)
        return Opening(reserved, hit.tokens, hit.key, hit.take_over, evicted)

    def reserve(self, key: SequenceKey, layout: KVLayout, tokens: int) -> tuple[int, tuple[SequenceKey, ...]]:
        """Reserve like KVBudget.reserve, evicting kept sequences as needed; return tokens and the evicted.

        Raises KVFullError, without having evicted anything, when even that would not do.
        """
        try:
            return self._budget.reserve(key, layout, tokens), ()
        except KVFullError as exc:
            if exc.wanted_bytes > exc.free_bytes + self.kept_bytes:
                raise
        evicted = []
        while True:
            oldest = self._index.oldest()
            if oldest is not None:
                evicted.append(self._evict(oldest))
            try:
                return self._budget.reserve(key, layout, tokens), tuple(evicted)
            except KVFullError:
                if oldest is None:
                    raise

    def keep(
        self, key: SequenceKey, names: Sequence[bytes]
    ) -> tuple[tuple[SequenceKey, int] | None, tuple[SequenceKey, ...]]:
        """Turn an ended sequence into a kept one: its new key and tokens (None: not worth it), and the evicted."""
        scope = self._scopes.get(key)
        size = self._budget.bytes_of(key)
        if scope is None or size > self._most_bytes:
            return None, ()
        evicted = []
        while self.kept_bytes + size > self._most_bytes and (oldest := self._index.oldest()) is not None:
            evicted.append(self._evict(oldest))
        kept: SequenceKey = ("kept", next(self._numbers))
        del self._scopes[key]
        self._budget.hand_over(key, kept)
        self._index.keep(kept, scope, names)
        self.kept_bytes += size
        return (kept, len(names) * PREFIX_BLOCK_TOKENS), tuple(evicted)

    def shrink(self) -> tuple[SequenceKey, ...]:
        """Evict what a smaller budget has no room for, as far as kept sequences can make room."""
        evicted = []
        while (
            self.kept_bytes > self._most_bytes or self._budget.used_bytes > self._budget.budget_bytes
        ) and (oldest := self._index.oldest()) is not None:
            evicted.append(self._evict(oldest))
        return tuple(evicted)

    def release(self, key: SequenceKey) -> None:
        """Free a running sequence's room."""
        self._scopes.pop(key, None)
        self._budget.release(key)

    def forget_stage(self, stage: Hashable) -> tuple[SequenceKey, ...]:
        """Free what was computed by a stage that goes away; scopes are (who named, stage, part)."""
        return tuple(self._evict(key) for key in self._index.keys_where(lambda scope: stage in scope))

    def _evict(self, key: SequenceKey) -> SequenceKey:
        self.kept_bytes -= self._budget.bytes_of(key)
        self._index.pop(key)
        self._budget.release(key)
        return key
