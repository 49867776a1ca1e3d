"""What a member says of itself or of others: records and claims, their bytes and their limits. Keeps no state."""

from __future__ import annotations

import math

import msgspec

from swarm.errors import ProtocolError
from swarm.types import DTYPES, QUANTIZATIONS, Address, BootId, LayerSpan, ModelId, NodeId

MAX_STATIC_BYTES = 2048
MAX_LOAD_BYTES = 768
MAX_CLAIM_BYTES = 256
MAX_REPORTED_LINKS = 16
MAX_COUNTER = 2**53
"""Incarnations and sequences stay below, so that adding one never leaves 64 bits."""

STATES = ("joining", "ready", "draining", "left")

_BOOT_BYTES = 8
_MAX_ADDRESSES = 16
_MAX_NAME = 64
_MAX_LABELS = 16
_MAX_LABEL = 32


class HostedSpan(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Layers of one model that a node has loaded, and what its model folder says of the whole."""

    model: ModelId
    span: LayerSpan
    dtype: str
    layers: int
    """Decoder layers of the whole model."""
    quantize: str = "none"
    """In how many bits the weights are held: one of swarm.types.QUANTIZATIONS."""


class IntendedSpan(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Layers that a node means to hold, told before it loads them so that nobody else takes them too."""

    model: ModelId
    span: LayerSpan
    layers: int
    """Decoder layers of the whole model."""
    firm: bool
    """It is being loaded: others give way whoever they are."""
    microseconds_per_layer: float
    """Estimated, for one decode token; 0: unknown."""


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
    labels: tuple[str, ...] = ()
    """What its owner calls it; a claim like the name."""
    intended: tuple[IntendedSpan, ...] = ()
    memory_bytes: int = 0
    """What this node may use for weights, KV cache and overhead; 0: not told."""


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
    row_microseconds: float = 0.0
    """Each further row of a pass through one layer; 0: unknown."""


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
    head_microseconds: float = 0.0
    """Norm, head and choice of one token at this node's front door; 0: it has loaded no ends."""


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """``signer`` could not reach ``subject`` at ``incarnation``: it is SUSPECT, or DEAD if ``dead``."""

    signer: NodeId
    subject: NodeId
    incarnation: int
    dead: bool = False


encode = msgspec.msgpack.Encoder().encode
_decode_static = msgspec.msgpack.Decoder(StaticRecord).decode
_decode_load = msgspec.msgpack.Decoder(LoadRecord).decode
_decode_claim = msgspec.msgpack.Decoder(Claim).decode


def decode_static(body: bytes) -> StaticRecord:
    """Read the body of a static record. Raises ProtocolError for a size or content that no member may sign."""
    _check_size(body, MAX_STATIC_BYTES, "static record")
    try:
        record = _decode_static(body)
    except msgspec.MsgspecError as exc:
        raise ProtocolError(f"static record: {exc}") from exc
    _check_counters("static record", record.incarnation, record.sequence)
    well_formed = (
        len(record.boot) == _BOOT_BYTES
        and len(record.addresses) <= _MAX_ADDRESSES
        and 0 <= record.protocol_min <= record.protocol_max
        and record.state in STATES
        and len(record.name) <= _MAX_NAME
        and record.name.isprintable()
        and 0 <= record.api_port <= 65535
        and all(held.span.end <= held.layers and held.dtype in DTYPES for held in record.spans)
        and all(held.quantize in QUANTIZATIONS for held in record.spans)
        and len(record.labels) <= _MAX_LABELS
        and all(0 < len(label) <= _MAX_LABEL and label.isprintable() for label in record.labels)
        and all(
            one.span.end <= one.layers and 0 <= one.microseconds_per_layer < math.inf
            for one in record.intended
        )
        and record.memory_bytes >= 0
    )
    if not well_formed:
        raise ProtocolError("static record: a field is out of its range")
    return record


def decode_load(body: bytes) -> LoadRecord:
    """Read the body of a load record. Raises ProtocolError for a size or content that no member may sign."""
    _check_size(body, MAX_LOAD_BYTES, "load record")
    try:
        record = _decode_load(body)
    except msgspec.MsgspecError as exc:
        raise ProtocolError(f"load record: {exc}") from exc
    _check_counters("load record", record.incarnation, record.sequence)
    quantities = [record.queued_rows, record.sessions, record.tokens_per_second, record.rss_bytes]
    quantities.append(record.head_microseconds)
    for span in record.spans:
        quantities += [span.index, span.microseconds_per_layer, span.free_kv_tokens, span.row_microseconds]
    quantities += [link.rtt_microseconds for link in record.links]
    if len(record.links) > MAX_REPORTED_LINKS or not all(math.isfinite(q) and q >= 0 for q in quantities):
        raise ProtocolError("load record: a field is out of its range")
    return record


def decode_claim(body: bytes) -> Claim:
    """Read the body of a claim. Raises ProtocolError."""
    _check_size(body, MAX_CLAIM_BYTES, "claim")
    try:
        claim = _decode_claim(body)
    except msgspec.MsgspecError as exc:
        raise ProtocolError(f"claim: {exc}") from exc
    _check_counters("claim", claim.incarnation, 1)
    if claim.signer == claim.subject:
        raise ProtocolError("claim: a member can't accuse itself")
    return claim


def _check_size(body: bytes, limit: int, what: str) -> None:
    if len(body) > limit:
        raise ProtocolError(f"{what}: {len(body)} bytes, {limit} allowed")


def _check_counters(what: str, incarnation: int, sequence: int) -> None:
    if not (1 <= incarnation < MAX_COUNTER and 1 <= sequence < MAX_COUNTER):
        raise ProtocolError(f"{what}: incarnation and sequence must be from 1 to 2^53 - 1")
