"""What fits into a machine's memory, by arithmetic on a model's footprint. Measures nothing and loads nothing.

A node's memory = weights of its layers + its ends, if it opens a door + second copies of weights + KV cache + overhead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, slots=True)
class Division:
    """How a node's memory is divided once it holds its spans; the parts add up to at most the whole."""

    weights_bytes: int
    ends_bytes: int
    second_copy_bytes: int
    """Second copies that are allowed, as the sum of the weights that may have one."""
    kv_bytes: int
    overhead_bytes: int


def part_of(memory: Memory, others: Iterable[int], undecided: int) -> Memory:
    """Return what one of several models may use.

    ``others`` are the bytes that models which are settled need at least, without the overhead that all share;
    ``undecided`` ones get as much as this one of what is left.
    """
    left = max(0, memory.total_bytes - memory.overhead_bytes - sum(others))
    return replace(memory, total_bytes=memory.overhead_bytes + left // (1 + undecided))


def needed_bytes(memory: Memory, model: Footprint, spans: Iterable[LayerSpan]) -> int:
    """Return the least memory with which ``spans`` can serve: weights, ends, overhead, KV for one long answer."""
    spans = list(spans)
    tokens = min(LEAST_KV_TOKENS, model.context_tokens)
    least_kv = sum(model.kv(span, tokens) for span in spans)
    return (
        memory.overhead_bytes
        + sum(map(model.weights, spans))
        + (model.ends_bytes if memory.door else 0)
        + max(least_kv, memory.kv_bytes)
    )


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


def check_fits(memory: Memory, model: Footprint, name: str, spans: Iterable[LayerSpan]) -> None:
    """Raise DoesNotFitError with the numbers when ``spans`` of the model called ``name`` do not fit."""
    spans = list(spans)
    needed = needed_bytes(memory, model, spans)
    if needed <= memory.total_bytes:
        return
    starts = [span.start for span in spans] or [0]
    ends = reach(memory, model)
    would_fit = [LayerSpan(start, ends[start]) for start in starts if ends[start] > start]
    longest = max((end - start for start, end in enumerate(ends)), default=0)
    raise DoesNotFitError(
        what=" and ".join(span.described() for span in spans) or "the ends",
        model=name,
        dtype=model.dtype,
        needed_bytes=needed,
        available_bytes=memory.total_bytes,
        would_fit=would_fit[0] if would_fit and spans else None,
        most_layers=longest,
    )


def divide(memory: Memory, model: Footprint, spans: Iterable[LayerSpan]) -> Division:
    """Return how the memory is divided: weights and ends, then KV, then second copies where KV stays comfortable.

    KV never falls below what LEAST_KV_TOKENS take, even where the spans don't fit: that is check_fits' to refuse.
    """
    spans = list(spans)
    weights = sum(map(model.weights, spans))
    ends = model.ends_bytes if memory.door else 0
    left = memory.total_bytes - memory.overhead_bytes - weights - ends
    comfortable = max(
        memory.kv_bytes,
        sum(model.kv(span, min(COMFORTABLE_KV_TOKENS, model.context_tokens)) for span in spans),
    )
    room = max(0, left - comfortable) * 100 // SECOND_COPY_PERCENT
    copied = min(room, memory.second_copy_bytes, weights + ends)
    kv = memory.kv_bytes or left - copied * SECOND_COPY_PERCENT // 100
    if memory.most_kv_bytes is not None and not memory.kv_bytes:
        kv = min(kv, memory.most_kv_bytes)
    least = sum(model.kv(span, min(LEAST_KV_TOKENS, model.context_tokens)) for span in spans)
    return Division(weights, ends, copied, max(kv, least), memory.overhead_bytes)
