"""What the front door asks of a node: models, tokenizers and generations. Knows no HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from prometheus_client.core import Metric

from swarm.engine.jobs import TokenLogprob
from swarm.engine.params import Grammar, SamplingParams
from swarm.models.tokenizer import ChatTokenizer
from swarm.routing.predict import Prediction
from swarm.types import LayerSpan, NodeId

FinishReason = Literal["stop", "length"]
Preference = Literal["latency", "throughput"]
"""The quickest path, or one that keeps away from queues although it may be slower by itself."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as this front door sees it: ``missing`` is what no live node holds, empty when servable."""

    name: str
    digest: str
    layers: int
    context_tokens: int
    """0 while nothing of the model is on this disk."""
    created: int
    """Unix seconds when this process first saw it."""
    missing: tuple[LayerSpan, ...] = ()
    problem: str = ""
    """Why this door can't serve it although no layer is missing, or empty."""

    @property
    def servable(self) -> bool:
        return not self.missing and not self.problem


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to compute. ``prompt`` never leaves this machine as ids."""

    request_id: str
    model: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    max_tokens: int
    ignore_eos: bool = False
    stop_token_ids: frozenset[int] = frozenset()
    deadline_seconds: float = 600.0
    streamed: bool = False
    """Whether the client sees tokens as they come: such an answer waits longer for a lost span's replacement."""
    grammar: Grammar | None = None
    """What the answer must match; a fault of the grammar itself is the API's to refuse beforehand."""
    scope: str = ""
    """Who may share cached prefixes with this request: derived from the API key."""
    trust: frozenset[str] | None = None
    """Ids, names or labels of the nodes a path may use beside this one; None: all."""
    max_hops: int | None = None
    prefer: Preference = "latency"
    prompt_logprobs: int | None = None
    """Tell the log-probabilities of the prompt's tokens too, with so many of the likeliest; None: don't."""
    freed: Callable[[], None] = lambda: None
    """Called when the answer gives back its KV, be its text read by then or not; at times more than once."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One accepted token. ``text`` may be empty while a character is incomplete.

    ``token`` is -1 in an event that only carries the text held back at the very end (an incomplete character).
    """

    token: int
    text: str
    logprob: TokenLogprob | None = None


@dataclass(frozen=True, slots=True)
class RouteHop:
    node: NodeId
    name: str
    span: LayerSpan
    dtype: str = ""
    quantize: str = "none"

    def __str__(self) -> str:
        held = "" if self.quantize == "none" else f";{self.quantize}"
        return f"{self.node[:8]}={self.span}{held}"


@dataclass(slots=True)
class GenerationStats:
    """Filled while the generation runs. Times in seconds."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    recoveries: int = 0
    first_token_seconds: float = 0.0
    predicted: Prediction | None = None
    """What its first path was expected to cost; None before it has one."""
    hop_compute_seconds: list[float] = field(default_factory=list)
    """For each hop of the route, the passes this answer's rows were part of, all together."""
    hop_queue_seconds: list[float] = field(default_factory=list)


class Generation(Protocol):
    """A running answer. Iterating yields every accepted token once; stop tokens are not yielded."""

    @property
    def route(self) -> tuple[RouteHop, ...]: ...

    @property
    def stats(self) -> GenerationStats: ...

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Of the prompt's second token and on; whole when the first token has come, if they were asked for."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """None until the iteration has ended."""

    def __aiter__(self) -> AsyncIterator[TokenEvent]:
        """Yield tokens. Raises SwarmError when the answer can't be continued, RequestError never."""

    async def aclose(self) -> None:
        """Stop, and free the KV of every hop. Safe to call twice, and after the end."""


class FrontDoor(Protocol):
    """A node, as its API sees it."""

    def models(self) -> tuple[ServedModel, ...]: ...

    async def ready(self, model: str) -> ServedModel:
        """Make sure that a model can be served here: what this door lacks of it is fetched.

        Raises UnknownModelError, AmbiguousModelError, NoPathError, ModelOnItsWayError while it is fetched,
        ModelError when it can't be had.
        """

    async def tokenizer(self, model: str) -> ChatTokenizer:
        """Raises as ``ready`` does."""

    async def open(self, request: GenerationRequest) -> Generation:
        """Find a path and reserve it on every hop; nothing is sent to the client before this returns.

        Raises UnknownModelError, ContextLengthError, NoPathError, OverloadedError (at once), PeerError.
        """

    def starving(self) -> bool:
        """Whether answers that have begun wait for room, which newcomers must not take."""

    def metrics(self) -> Iterable[Metric]:
        """The node's own metrics: swarm.node.meters.SPECS."""

    def state(self, *, detail: bool) -> dict[str, Any]:
        """Members, spans, links and sessions as JSON values; addresses and links only with ``detail``."""
