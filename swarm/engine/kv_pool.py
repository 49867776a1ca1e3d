"""Keys and values of sequences: the budget they are accounted in, and the slabs they lie in.

The accounting belongs to the event-loop thread, the slabs to the compute thread; neither knows of jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from swarm.engine.jobs import SequenceKey
from swarm.engine.recurrent import LayerState
from swarm.errors import BadTensorError, KVFullError
from swarm.models.footprint import WINDOW_SLACK, window_slots

MAX_SEQUENCE_TOKENS = 1 << 24
"""Said where only the length of a sequence has no bound: its layers keep states."""


@dataclass(frozen=True, slots=True)
class LayerKV:
    """What one layer stores for a token: ``heads`` keys and as many values of ``dim`` numbers."""

    heads: int
    dim: int
    window: int | None
    state_bytes: int = 0
    """Bytes of a state that stands for all tokens, and can't be taken back to fewer of them."""
    source: int | None = None
    """The layer whose keys and values this one reads, counted like the layers of its layout; None: its own."""

    @property
    def stored(self) -> int:
        """Numbers that it stores for a token."""
        return 2 * self.heads * self.dim if self.source is None else 0


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The layers of one span in order, and the bytes of a number."""

    layers: tuple[LayerKV, ...]
    itemsize: int

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token in every layer, as if none had a window."""
        return sum(layer.stored for layer in self.layers) * self.itemsize

    @property
    def state_bytes(self) -> int:
        """Bytes of the states of one sequence, whatever its length."""
        return sum(layer.state_bytes for layer in self.layers)

    def bytes_for(self, tokens: int) -> int:
        """Bytes that a sequence of at most ``tokens`` needs."""
        kept = sum(layer.stored * capacity(layer.window, tokens) for layer in self.layers)
        return kept * self.itemsize + self.state_bytes

    @property
    def slabs(self) -> list[tuple[LayerKV, list[int]]]:
        """Layers of one kind share a slab: each kind and its layers, in order."""
        kinds: dict[LayerKV, list[int]] = {}
        for index, kind in enumerate(self.layers):
            if kind.stored:
                kinds.setdefault(kind, []).append(index)
        return list(kinds.items())

    def part(self, first: int, count: int) -> KVLayout:
        """Return the layout of some of the layers; of those whose source is left out, the first stores."""
        first_readers: dict[int, int] = {}
        layers = []
        for index, layer in enumerate(self.layers[first : first + count]):
            if layer.source is None:
                layers.append(layer)
                continue
            source = layer.source - first
            if source < 0:
                source = first_readers.setdefault(source, index)
            layers.append(replace(layer, source=None if source == index else source))
        return KVLayout(tuple(layers), self.itemsize)


def capacity(window: int | None, tokens: int) -> int:
    """Slots a layer needs for a sequence of ``tokens``: a window layer moves its end to the front when full."""
    return window_slots(window, tokens, WINDOW_SLACK)


def floor_of(layout: KVLayout, highest: int) -> int:
    """Return the shortest length, beside 0, that a sequence that once was ``highest`` long can surely go back to."""
    if layout.state_bytes:
        return highest
    floors = [
        0 if highest <= capacity(layer.window, highest) else max(0, highest - WINDOW_SLACK)
        for layer in layout.layers
    ]
    return max(floors, default=0)


@dataclass(slots=True)
class _Reservation:
    layout: KVLayout
    tokens: int
    reserved_bytes: int


class KVBudget:
    """How many bytes are promised to whom. Every sequence is rounded up to whole blocks."""

    def __init__(self, budget_bytes: int, block_tokens: int) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._block_tokens = block_tokens
        self._held: dict[SequenceKey, _Reservation] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: SequenceKey) -> bool:
        return key in self._held

    def rounded(self, tokens: int) -> int:
        return -(-max(tokens, 1) // self._block_tokens) * self._block_tokens

    def reserve(self, key: SequenceKey, layout: KVLayout, tokens: int) -> int:
        """Promise room for ``tokens``, or for more of them; return the tokens there is room for now.

        Raises KVFullError, and then nothing has changed.
        """
        held = self._held.get(key)
        before = held.reserved_bytes if held is not None else 0
        rounded = max(self.rounded(tokens), held.tokens if held is not None else 0)
        wanted = layout.bytes_for(rounded)
        free = self.budget_bytes - self.used_bytes
        if wanted - before > free:
            raise KVFullError(wanted - before, free)
        self.used_bytes += wanted - before
        self._held[key] = _Reservation(layout, rounded, wanted)
        return rounded

    def layout_of(self, key: SequenceKey) -> KVLayout:
        """Return the layout ``key`` was reserved with. Raises KeyError for a key that holds nothing."""
        return self._held[key].layout

    def bytes_of(self, key: SequenceKey) -> int:
        """Return the bytes promised to ``key``. Raises KeyError for a key that holds nothing."""
        return self._held[key].reserved_bytes

    def hand_over(self, old: SequenceKey, new: SequenceKey) -> None:
        """Let ``new`` hold what ``old`` held. Raises KeyError for a key that holds nothing."""
        self._held[new] = self._held.pop(old)

    def release(self, key: SequenceKey) -> None:
        """Give back what ``key`` holds; a key that holds nothing is ignored."""
        held = self._held.pop(key, None)
        if held is not None:
            self.used_bytes -= held.reserved_bytes

    def free_tokens(self, layout: KVLayout, spare_bytes: int = 0) -> int:
        """Return the tokens, in whole blocks, that one more sequence could surely get.

        ``spare_bytes`` are in use by what would make room.
        """
        room = self.budget_bytes - self.used_bytes + spare_bytes - layout.state_bytes
        if not layout.bytes_per_token:
            return MAX_SEQUENCE_TOKENS if room >= 0 else 0
        tokens = room // layout.bytes_per_token
        return max(0, tokens // self._block_tokens * self._block_tokens)


class _Slab:
    """Keys and values of the layers of one kind: [2 x layers, 1, heads, slots, dim], keys at even indices."""

    def __init__(
        self, kind: LayerKV, layers: Sequence[int], tokens: int, dtype: torch.dtype, device: str
    ) -> None:
        self.kind = kind
        self.layers = tuple(layers)
        self.base = 0
        """Position of slot 0."""
        self.data = self._allocate(tokens, dtype, device)

    def _allocate(self, tokens: int, dtype: torch.dtype, device: str) -> torch.Tensor:
        slots = capacity(self.kind.window, tokens)
        return torch.empty(
            2 * len(self.layers), 1, self.kind.heads, slots, self.kind.dim, dtype=dtype, device=device
        )

    def grow(self, tokens: int, length: int) -> None:
        if capacity(self.kind.window, tokens) <= self.data.shape[3]:
            return
        old = self.data
        self.data = self._allocate(tokens, old.dtype, str(old.device))
        self.data[:, :, :, : length - self.base] = old[:, :, :, : length - self.base]

    def make_room(self, length: int, count: int) -> None:
        """Move the last window to the front when ``count`` more tokens don't fit behind ``length``."""
        window = self.kind.window
        if window is None or length + count - self.base <= self.data.shape[3]:
            return
        kept_from = max(self.base, length - window - WINDOW_SLACK)
        kept = self.data[:, :, :, kept_from - self.base : length - self.base].clone()
        if length + count - kept_from > self.data.shape[3]:  # a step of more tokens than the slack
            self.data = self.data.new_empty(*self.data.shape[:3], length + count - kept_from, self.kind.dim)
        self.data[:, :, :, : length - kept_from] = kept
        self.base = kept_from

    def places(self, start: int, end: int) -> list[tuple[int, int, int, int, int, int]]:
        """Return (address of the slab, numbers from layer to layer, from head to head, first slot to look at, own slot,
        position) of each token.
        """
        step, head_step = self.data.stride(0), self.data.stride(2)
        address, base = self.data.data_ptr(), self.base
        return [
            (address, step, head_step, self.read_from(position) - base, position - base, position)
            for position in range(start, end)
        ]

    def read_from(self, position: int) -> int:
        """Return the first position that a query at ``position`` may look at."""
        return 0 if self.kind.window is None else max(0, position + 1 - self.kind.window)


class LayerViews(NamedTuple):
    """Where one layer's new keys and values go, and what its queries read: [1, heads, tokens, dim] each."""

    write_key: torch.Tensor
    write_value: torch.Tensor
    read_key: torch.Tensor
    read_value: torch.Tensor
    window: int | None
    state: LayerState | None = None


class SequenceKV:
    """The keys and values of one sequence in the layers of one span."""

    def __init__(self, layout: KVLayout, tokens: int, dtype: torch.dtype, device: str) -> None:
        self.length = 0
        self.tokens = tokens
        self._sources = [kind.source for kind in layout.layers]
        self._states = [LayerState() if kind.state_bytes else None for kind in layout.layers]
        nothing = torch.empty(1, 0, 0, 0, dtype=dtype, device=device)
        self._without_keys = [LayerViews(nothing, nothing, nothing, nothing, None, s) for s in self._states]
        self._slabs = [_Slab(kind, layers, tokens, dtype, device) for kind, layers in layout.slabs]

    def grow(self, tokens: int) -> None:
        """Make room for ``tokens`` in all."""
        if tokens > self.tokens:
            for slab in self._slabs:
                slab.grow(tokens, self.length)
            self.tokens = tokens

    @property
    def floor(self) -> int:
        """The shortest length, beside 0, that this sequence can go back to: what its layers still hold."""
        if any(state is not None for state in self._states):
            return self.length
        return max(
            (slab.base + slab.kind.window for slab in self._slabs if slab.base and slab.kind.window),
            default=0,
        )

    def truncate(self, length: int) -> None:
        """Forget all tokens from ``length`` on. Raises BadTensorError below the floor, unless all are forgotten."""
        if length >= self.length:
            return
        if 0 < length < self.floor:
            raise BadTensorError(
                f"can't go back to token {length}: only tokens from {self.floor} on are held"
            )
        if length == 0:
            for slab in self._slabs:
                slab.base = 0
            for state in self._states:
                if state is not None:
                    state.clear()
        self.length = length

    def copy_beginning(self, other: SequenceKV, length: int) -> None:
        """Begin with the first ``length`` tokens of a sequence of the same layout, none of whose are forgotten."""
        for own, theirs in zip(self._slabs, other._slabs, strict=True):
            own.data[:, :, :, :length] = theirs.data[:, :, :, :length]
        self.length = length

    def append_views(self, count: int) -> Appended:
        """Count ``count`` tokens behind the current length as held; return where they go and what they read."""
        start, end = self.length, self.length + count
        for slab in self._slabs:
            slab.make_room(start, count)
        self.length = end
        return Appended(self, start, end)

    def views_of(self, start: int, end: int) -> list[LayerViews]:
        """Return each layer's views for the tokens from ``start`` to ``end``, the newest ones held."""
        views = list(self._without_keys)
        for slab in self._slabs:
            written = slab.data[:, :, :, start - slab.base : end - slab.base].unbind(0)
            read = slab.data[:, :, :, slab.read_from(start) - slab.base : end - slab.base].unbind(0)
            for index, layer in enumerate(slab.layers):
                k, v = 2 * index, 2 * index + 1
                views[layer] = LayerViews(
                    written[k], written[v], read[k], read[v], slab.kind.window, self._states[layer]
                )
        return [views[index if source is None else source] for index, source in enumerate(self._sources)]

    def places_of(self, start: int, end: int) -> list[list[tuple[int, int, int, int, int, int]]]:
        """Return, for each slab, what ``compiled.attend`` must know of each of those tokens."""
        return [slab.places(start, end) for slab in self._slabs]


class Appended(Sequence[LayerViews]):
    """Tokens just appended to a sequence: each layer's views of them, made when one is asked for."""

    __slots__ = ("_end", "_kv", "_start", "_views")

    def __init__(self, kv: SequenceKV, start: int, end: int) -> None:
        self._kv = kv
        self._start = start
        self._end = end
        self._views: list[LayerViews] | None = None

    @property
    def places(self) -> list[list[tuple[int, int, int, int, int, int]]]:
        return self._kv.places_of(self._start, self._end)

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def _all(self) -> list[LayerViews]:
        if self._views is None:
            self._views = self._kv.views_of(self._start, self._end)
        return self._views
