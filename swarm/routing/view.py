"""The swarm as routing sees it: a frozen snapshot that the node rebuilds whenever membership changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from swarm.types import BootId, LayerSpan, ModelId, NodeId


@dataclass(frozen=True, slots=True)
class SpanView:
    """One span some node has loaded. ``seconds_per_layer`` is for one decode token."""

    node: NodeId
    boot: BootId
    model: ModelId
    span: LayerSpan
    dtype: str
    seconds_per_layer: float
    queued_rows: int = 0
    free_kv_tokens: int = 1 << 40
    quantize: str = "none"
    seconds_per_row: float = 0.0
    """For each further row of a pass through one layer; 0: unknown."""


@dataclass(frozen=True, slots=True)
class Intention:
    """A span that a node means to hold. ``firm``: it is being loaded, so that others give way whoever they are."""

    node: NodeId
    model: ModelId
    span: LayerSpan
    firm: bool
    seconds_per_layer: float = 0.0
    """Estimated before it is loaded; 0: unknown."""


@dataclass(frozen=True, slots=True)
class SwarmView:
    """Live, routable spans and measured links. ``links`` are one-way seconds; absent pairs use the default."""

    spans: tuple[SpanView, ...] = ()
    links: Mapping[tuple[NodeId, NodeId], float] = field(default_factory=dict)
    unreachable: frozenset[tuple[NodeId, NodeId]] = frozenset()
    layers: Mapping[ModelId, int] = field(default_factory=dict)
    """Decoder layers of each model known."""
    default_link_seconds: float = 0.05
    others: int = 0
    """Live members beside this node, whatever they hold."""
    intentions: tuple[Intention, ...] = ()
    """What members are about to load, this node's own included."""
    doors: Mapping[NodeId, float] = field(default_factory=dict)
    """Nodes with a front door: the seconds that norm, head and choice take of a token there."""
