"""What an origin's session wants done, and what it is told of a path: plain values. Nothing here acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from swarm.protocol.messages import CloseSession, Hop, OpenSession, Replay, Step
from swarm.types import NodeId

if TYPE_CHECKING:
    from swarm.errors import SwarmError

Logprob = TypeVar("Logprob")
"""What the sampler says of a token besides its id; passed through unread."""

Edge = tuple[NodeId, NodeId]


@dataclass(frozen=True, slots=True)
class ChosenPath:
    """A path as routing found it: ``step_seconds`` is its prediction for one decode token."""

    hops: tuple[Hop, ...]
    dtype: str
    step_seconds: float
    compute_seconds: tuple[float, ...] = ()
    """For each hop, what it or its best rival says it computes for one token, whichever is slower."""


@dataclass(frozen=True, slots=True)
class FindPath:
    """Answer with ``path_found`` or ``path_missing``; when ``moving``, with ``move_found`` or ``move_missing``."""

    avoid_nodes: frozenset[NodeId]
    avoid_edges: frozenset[Edge]
    attempt: int
    held: tuple[Hop, ...] = ()
    """Hops that have this answer's KV: a path over all of them has only the layers between to compute."""
    moving: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    node: NodeId
    message: OpenSession | Step | CloseSession | Replay
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Embed:
    """Answer with ``embedded(epoch, hidden)``."""

    epoch: int
    tokens: Sequence[int]
    dtype: str


@dataclass(frozen=True, slots=True)
class Sample:
    """Answer with ``sampled`` or ``sample_failed``."""

    hidden: bytes | bytearray | memoryview
    dtype: str
    drafts: tuple[int, ...] = ()
    """Row i + 1 is only of use if draft i equals the sample of row i."""


@dataclass(frozen=True, slots=True)
class Score:
    """Answer with ``scored(epoch, start, logprobs)``: what row i says of ``tokens[i]``, which follows it."""

    epoch: int
    start: int
    """The place in the prompt of the first of ``tokens``."""
    hidden: bytes | bytearray | memoryview
    dtype: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shun:
    """An edge or node failed: other requests should avoid it for a while too."""

    edge: Edge | None = None
    node: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """Every hop has reserved its KV for the first time: the client may be told that its answer begins."""


@dataclass(frozen=True, slots=True)
class Emit(Generic[Logprob]):
    """Accepted tokens, in order, each exactly once; stop tokens are not among them."""

    tokens: tuple[int, ...]
    logprobs: tuple[Logprob, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    reason: str
    """stop or length."""


@dataclass(frozen=True, slots=True)
class Fail:
    error: SwarmError


Effect = FindPath | Send | Embed | Sample | Score | Shun | Ready | Emit[object] | Finish | Fail
