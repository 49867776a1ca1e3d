"""What a member says of itself: a static record and a load record, signed and versioned."""

from __future__ import annotations

import msgspec

from swarm.types import Address, BootId, LayerSpan, ModelId, NodeId

MAX_STATIC_BYTES = 2048
MAX_LOAD_BYTES = 768


class HostedSpan(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Layers of one model that a node has loaded, and what its model folder says of the whole."""

    model: ModelId
    span: LayerSpan
    dtype: str
    layers: int
    """Decoder layers of the whole model."""


class StaticRecord(msgspec.Struct, frozen=True, array_like=True):
    """Who a member is and what it holds. ``models`` names what its front door could serve (ends on disk)."""

    node: NodeId
    public_key: bytes
    incarnation: int
    sequence: int
    boot: BootId
    addresses: tuple[Address, ...]
    protocol_min: int
    protocol_max: int
    state: str
    """joining, ready, draining or left."""
    spans: tuple[HostedSpan, ...] = ()
    name: str = ""
    api_port: int = 0
    models: tuple[ModelId, ...] = ()


class NeighbourLink(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A neighbour by the first 8 characters of its id, the round trip, and whether it can't be reached."""

    node_prefix: str
    rtt_microseconds: int
    unreachable: bool = False


class SpanLoad(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How fast and how full one hosted span is; the index is its place in StaticRecord.spans."""

    index: int
    microseconds_per_layer: float
    free_kv_tokens: int


class LoadRecord(msgspec.Struct, frozen=True, array_like=True):
    """How busy a member is. Ordered by (incarnation, sequence) like the static record, with its own sequence."""

    node: NodeId
    incarnation: int
    sequence: int
    queued_rows: int
    sessions: int
    tokens_per_second: float
    rss_bytes: int
    spans: tuple[SpanLoad, ...] = ()
    links: tuple[NeighbourLink, ...] = ()
