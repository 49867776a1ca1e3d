"""How fast an answer over a path will be: its first token and those after it. Knows nothing of what happened then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.routing.cost import HOP_SECONDS, ROWS_THAT_DOUBLE_A_PASS, PathHop, link_seconds, queue_seconds
from swarm.routing.view import SwarmView
from swarm.types import LayerSpan, ModelId, NodeId


@dataclass(frozen=True, slots=True)
class StageCost:
    """One hop: its way there, its layers for one token, and the queue it has now."""

    node: NodeId
    span: LayerSpan
    link_seconds: float
    token_seconds: float
    queue_seconds: float
    row_seconds: float = 0.0
    """What each further row of a pass takes in all layers; 0: unknown."""

    def pass_seconds(self, rows: int) -> float:
        """Return what a pass of ``rows`` takes: reading weights bounds few rows, computing many."""
        more = self.row_seconds or self.token_seconds / ROWS_THAT_DOUBLE_A_PASS
        return self.token_seconds + (rows - 1) * more


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one answer costs on a path, as the view has it."""

    stages: tuple[StageCost, ...]
    back_seconds: float
    head_seconds: float
    chunk_tokens: int
    """Tokens of a prompt that travel as one step."""

    @property
    def token_seconds(self) -> float:
        """Return the time between two tokens, if nobody else asks more than now."""
        hops = sum(
            stage.link_seconds + stage.token_seconds + stage.queue_seconds + HOP_SECONDS
            for stage in self.stages
        )
        return hops + self.back_seconds + self.head_seconds

    def first_token_seconds(self, prompt_tokens: int) -> float:
        """Return the time from asking to the first token: the hops are opened, then chunks of the prompt follow
        each other through them, each stage working on another.
        """
        rows = max(prompt_tokens, 1)
        first = min(rows, self.chunk_tokens)
        chunks = math.ceil(rows / self.chunk_tokens)
        opened = 2 * max((stage.link_seconds for stage in self.stages), default=0.0)
        through = sum(
            stage.link_seconds + stage.queue_seconds + stage.pass_seconds(first) + HOP_SECONDS
            for stage in self.stages
        )
        slowest = max((stage.pass_seconds(first) for stage in self.stages), default=0.0)
        rest = slowest * (rows - first) / first if chunks > 1 else 0.0
        return opened + through + rest + self.back_seconds + self.head_seconds

    @property
    def bottleneck(self) -> StageCost | None:
        """Return the hop that takes the most of a token."""
        return max(self.stages, key=lambda stage: stage.token_seconds + stage.link_seconds, default=None)


def predict(
    view: SwarmView,
    model: ModelId,
    origin: NodeId,
    hops: Sequence[PathHop],
    *,
    head_seconds: float,
    chunk_tokens: int,
) -> Prediction:
    """Return what an answer of ``model`` from ``origin`` over ``hops`` costs. Unknown spans cost infinity."""
    stages = []
    here = origin
    for hop in hops:
        held = [
            span
            for span in view.spans
            if (span.node, span.boot, span.model) == (hop.node, hop.boot, model)
            and span.span.covers(hop.span)
        ]
        fastest = min(held, key=lambda span: span.seconds_per_layer, default=None)
        stages.append(
            StageCost(
                hop.node,
                hop.span,
                link_seconds(view, here, hop.node),
                fastest.seconds_per_layer * len(hop.span) if fastest else math.inf,
                queue_seconds(fastest) if fastest else 0.0,
                fastest.seconds_per_row * len(hop.span) if fastest else 0.0,
            )
        )
        here = hop.node
    return Prediction(tuple(stages), link_seconds(view, here, origin), head_seconds, chunk_tokens)
