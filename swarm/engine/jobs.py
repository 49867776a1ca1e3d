"""What the compute thread is asked and what it answers: plain values, no tensors, no sockets."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from swarm.engine.sampling import Sampler
    from swarm.errors import EngineError
    from swarm.types import LayerSpan, ModelId

Rows: TypeAlias = Literal["none", "last", "all"]
Payload: TypeAlias = bytes | bytearray | memoryview
Tag: TypeAlias = object
"""Whatever the asker wants back with the result; the engine never looks at it."""

SequenceKey: TypeAlias = Hashable


@dataclass(frozen=True, slots=True)
class StepJob:
    """Run ``count`` tokens of one open sequence through its span.

    ``hidden`` is [count, columns] in ``dtype``: the hidden states and what else the family carries along.
    ``position`` below the KV length truncates first; above it is an error. ``rows`` says which output rows come back.
    """

    key: SequenceKey
    position: int
    count: int
    hidden: Payload
    dtype: str
    rows: Rows
    tag: Tag = None
    hops: int = 1
    """Places that compute the model for this sequence; 1: it is back as soon as its token is sampled."""
    received_at: float = 0.0
    """``time.perf_counter()`` when the bytes arrived; queue time counts from here (0: from submit)."""


@dataclass(frozen=True, slots=True)
class StepResult:
    tag: Tag
    key: SequenceKey
    position: int
    count: int
    """Rows in ``hidden``: 0, 1 or the job's count."""
    hidden: bytes
    dtype: str
    queue_seconds: float
    compute_seconds: float
    batch_rows: int
    error: EngineError | None = None
    width: int = 0
    """Columns of a row in ``hidden``: at least the hidden size, see swarm.models.carried."""


@dataclass(frozen=True, slots=True)
class EmbedJob:
    """Look the tokens up in the embedding of ``model``; the result is [len(tokens), hidden] in ``dtype``."""

    model: ModelId
    tokens: Sequence[int]
    dtype: str
    tag: Tag = None


@dataclass(frozen=True, slots=True)
class EmbedResult:
    tag: Tag
    hidden: bytes
    error: EngineError | None = None


@dataclass(frozen=True, slots=True)
class SampleJob:
    """Norm and head over ``hidden`` ([1 + len(drafts), hidden] in ``dtype``), then sample.

    Row i is sampled after the drafts before it were accepted; sampling stops at the first draft that differs
    from its sample. ``sampler`` is owned by the compute thread from its first job on.
    """

    model: ModelId
    sampler: Sampler
    hidden: Payload
    dtype: str
    drafts: tuple[int, ...] = ()
    tag: Tag = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A sampled token's natural-log probability and those of the most likely ones, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class SampleResult:
    """``tokens``: 1 to 1 + len(drafts) accepted tokens. ``next_hidden``: [1, hidden], the last one embedded."""

    tag: Tag
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    next_hidden: bytes
    compute_seconds: float
    error: EngineError | None = None


@dataclass(frozen=True, slots=True)
class LoadedStage:
    """What loading a span measured, for the node's record."""

    model: ModelId
    span: LayerSpan
    dtype: str
    hidden_size: int
    weight_bytes: int
    kv_bytes_per_token: int
    quantize: str
    seconds_per_layer: float
    """One decode token through one layer, median of a few runs at load."""
    seconds_per_row: float
    """Each further row of a pass of many through one layer, the best of a few runs at load."""


@dataclass(frozen=True, slots=True)
class LoadedEnds:
    model: ModelId
    dtype: str
    weight_bytes: int
    head_seconds: float
    """Norm, head and greedy choice for one token, median of a few runs at load."""
    keeps_states: bool = False
    """Some layer keeps a state, which can't go back to an earlier token."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    kv_budget_bytes: int
    kv_used_bytes: int
    sequences: int
    queued_jobs: int
    steps: int
    rows: int
    busy_seconds: float
    weight_bytes: int = 0
    kv_kept_bytes: int = 0
    """Part of the used bytes that ended sequences hold for later ones; it makes room when that is needed."""
    spans: tuple[tuple[ModelId, LayerSpan], ...] = field(default=())
