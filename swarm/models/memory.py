"""What fits into a machine's memory, by arithmetic on a model's footprint. Measures nothing and loads nothing.

A node's memory = weights of its layers + its ends, if it opens a door + second copies of weights + KV cache + overhead.
Several models share all of it: the program is there once, the KV cache is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from swarm.errors import DoesNotFitError
from swarm.models.footprint import Footprint
from swarm.types import LayerSpan

OVERHEAD_BYTES = 680_000_000
"""A node beyond weights and KV: what it imports (410 MB measured), compiled kernels, self-check and buffers (160), a
front door and running answers (60); and a little for what was not seen."""

LEAST_KV_TOKENS = 2048
"""A span that has no KV for so many tokens (or the model's context) does not fit: it could not serve one answer."""

COMFORTABLE_KV_TOKENS = 16384
"""Room that the KV cache gets before weights are kept a second time for speed."""

SECOND_COPY_PERCENT = 110
"""What a second copy of weights takes at rest, of their bytes: making it leaves holes that the allocator keeps."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a node may use in all, and what it uses whatever it holds.

    ``kv_bytes`` is a KV budget that was asked for; 0: what is left. ``second_copy_bytes`` limits second copies.
    """

    total_bytes: int
    door: bool = False
    """Whether embedding, norm and head are held too."""
    kv_bytes: int = 0
    most_kv_bytes: int | None = None
    second_copy_bytes: int = 0
    overhead_bytes: int = OVERHEAD_BYTES
    others_bytes: int = 0
    """What other models on this node take, or are to have: see ``taken_bytes``."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a node holds of one model, or is about to: ``spans`` of layers, and ``ends`` for its front door."""

    model: Footprint
    spans: tuple[LayerSpan, ...] = ()
    ends: bool = False

    @property
    def weights_bytes(self) -> int:
        return sum(map(self.model.weights, self.spans))

    @property
    def ends_bytes(self) -> int:
        return self.model.ends_bytes if self.ends else 0

    def kv_bytes(self, tokens: int) -> int:
        """Return the bytes of one sequence of ``tokens``, or of the model's context if that is less."""
        return sum(self.model.kv(span, min(tokens, self.model.context_tokens)) for span in self.spans)


def taken_bytes(held: Held) -> int:
    """Return the least with which one model can serve beside others: weights, ends, KV for one long answer."""
    return held.weights_bytes + held.ends_bytes + held.kv_bytes(LEAST_KV_TOKENS)


@dataclass(frozen=True, slots=True)
class Division:
    """How a node's memory is divided once it holds its spans; the parts add up to at most the whole."""

    weights_bytes: int
    ends_bytes: int
    second_copy_bytes: int
    """Second copies that are allowed, as the sum of the weights that may have one."""
    kv_bytes: int
    overhead_bytes: int

    def described(self, memory: Memory) -> str:
        """Return the parts in words."""
        return (
            f"Memory: {self.weights_bytes / 2**20:.0f} MiB for layers, {self.ends_bytes / 2**20:.0f} for models' "
            f"ends, {self.kv_bytes / 2**20:.0f} for KV, {self.overhead_bytes / 2**20:.0f} for the program; "
            f"{memory.total_bytes / 2**20:.0f} may be used."
        )


def needed_bytes(memory: Memory, model: Footprint, spans: Iterable[LayerSpan]) -> int:
    """Return the least memory with which ``spans`` can serve: weights, ends, overhead, KV for one long answer."""
    held = Held(model, tuple(spans), memory.door)
    kv = max(held.kv_bytes(LEAST_KV_TOKENS), memory.kv_bytes)
    return memory.overhead_bytes + memory.others_bytes + held.weights_bytes + held.ends_bytes + kv


def reach(memory: Memory, model: Footprint, beside: Iterable[LayerSpan] = ()) -> tuple[int, ...]:
    """Return for each layer where the longest span that begins there and fits ends; the layer itself if none does.

    ``beside`` are spans that stay loaded.
    """
    beside = list(beside)
    found = []
    end = 0
    for start in range(model.layers):
        end = max(end, start)
        while end < model.layers and _fits(memory, model, [*beside, LayerSpan(start, end + 1)]):
            end += 1
        found.append(end)
    return tuple(found)


def _fits(memory: Memory, model: Footprint, spans: Iterable[LayerSpan]) -> bool:
    return needed_bytes(memory, model, spans) <= memory.total_bytes


def check_fits(
    memory: Memory, model: Footprint, name: str, spans: Iterable[LayerSpan], *, ends_only: bool = False
) -> None:
    """Raise DoesNotFitError with the numbers when ``spans`` of the model called ``name`` do not fit.

    With ``ends_only`` the spans are held already, and only the ends are asked about.
    """
    spans = list(spans)
    needed = needed_bytes(memory, model, spans)
    if needed <= memory.total_bytes:
        return
    starts = [span.start for span in spans] or [0]
    ends = reach(memory, model)
    would_fit = [LayerSpan(start, ends[start]) for start in starts if ends[start] > start]
    longest = max((end - start for start, end in enumerate(ends)), default=0)
    raise DoesNotFitError(
        what="" if ends_only else " and ".join(span.described() for span in spans),
        model=name,
        dtype=model.dtype,
        needed_bytes=needed - memory.others_bytes,
        available_bytes=memory.total_bytes - memory.others_bytes,
        would_fit=would_fit[0] if would_fit and spans else None,
        most_layers=longest,
    )


def divide(memory: Memory, held: Iterable[Held]) -> Division:
    """Return how the memory is divided: weights and ends, then KV, then second copies where KV stays comfortable.

    KV never falls below what LEAST_KV_TOKENS take, even where the spans don't fit: that is check_fits' to refuse.
    """
    held = list(held)
    weights, ends = sum(one.weights_bytes for one in held), sum(one.ends_bytes for one in held)
    left = memory.total_bytes - memory.overhead_bytes - memory.others_bytes - weights - ends
    comfortable = max(memory.kv_bytes, sum(one.kv_bytes(COMFORTABLE_KV_TOKENS) for one in held))
    room = max(0, left - comfortable) * 100 // SECOND_COPY_PERCENT
    copied = min(room, memory.second_copy_bytes, weights + ends)
    kv = memory.kv_bytes or left - copied * SECOND_COPY_PERCENT // 100
    if memory.most_kv_bytes is not None and not memory.kv_bytes:
        kv = min(kv, memory.most_kv_bytes)
    least = sum(one.kv_bytes(LEAST_KV_TOKENS) for one in held)
    return Division(weights, ends, copied, max(kv, least), memory.overhead_bytes)


# --- several models on one node -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wish:
    """What one of a node's models asks of its memory."""

    model: Footprint
    ends: bool
    pinned: tuple[LayerSpan, ...] | None = None
    """Spans that it must hold; None: as many layers as it gets room for."""
    missing: tuple[LayerSpan, ...] = ()
    """Layers that nobody in the swarm holds."""

    def least(self) -> int:
        """Return the bytes without which it serves nothing: its pinned spans, or its largest layer."""
        if self.pinned is not None:
            return taken_bytes(Held(self.model, self.pinned, self.ends))
        layers = range(self.model.layers)
        return max(self._with(LayerSpan(layer, layer + 1)) for layer in layers)

    def for_holes(self) -> int:
        return self.least() if self.pinned is not None else max(self.least(), self._with(*self.missing))

    def whole(self) -> int:
        whole = LayerSpan(0, self.model.layers)
        return self.least() if self.pinned is not None else self._with(whole)

    def _with(self, *spans: LayerSpan) -> int:
        return taken_bytes(Held(self.model, spans, self.ends))


def portions(memory: Memory, wishes: Sequence[Wish]) -> tuple[int, ...]:
    """Return the bytes that each model may take, in all at most what the program leaves.

    Pinned spans and a layer of each come first, in the order of the wishes; then layers that nobody holds; then
    whole models, each to the same part of what it still lacks. What then is left is everybody's, as KV cache.
    """
    left = memory.total_bytes - memory.overhead_bytes - memory.kv_bytes
    given = []
    for wish in sorted(range(len(wishes)), key=lambda at: wishes[at].pinned is None):
        part = wishes[wish].least()
        given.append((wish, part if part <= left else 0))
        left -= given[-1][1]
    parts = dict(given)
    for goal in (Wish.for_holes, Wish.whole):
        left = _fill(parts, wishes, goal, left)
    return tuple(parts[at] for at in range(len(wishes)))


def _fill(parts: dict[int, int], wishes: Sequence[Wish], goal: Callable[[Wish], int], left: int) -> int:
    """Bring every part as near to its goal as ``left`` allows, all by the same share; return what is left then."""
    lacking = {at: max(0, goal(wish) - parts[at]) for at, wish in enumerate(wishes) if parts[at]}
    in_all = sum(lacking.values())
    if not in_all or left <= 0:
        return left
    for at, octets in lacking.items():
        parts[at] += octets if in_all <= left else octets * left // in_all
    return max(0, left - in_all)
