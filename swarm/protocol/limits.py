"""Every number of the wire protocol in one place: versions, sizes and close codes. Knows no settings."""

from __future__ import annotations

from enum import IntEnum

KIB = 1024
MIB = 1024 * KIB

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
FEATURES = 0
"""Bit set of optional abilities; the two ends use what both offer. None is defined yet."""

PATH = "/swarm/1"

MAX_HANDSHAKE_BYTES = 4 * KIB
"""Largest frame before READY, and the largest upgrade request or response."""

MIN_PART_BYTES = 4 * KIB
"""Parts of a payload other than its last are no smaller on average: a message can't come in crumbs."""
MAX_PART_BYTES = 64 * KIB
MAX_FRAME_BYTES = 80 * KIB
MAX_HEADER_BYTES = 64 * KIB - 1
"""Largest MessagePack header of a message without payload: its length travels in 16 bits."""
MAX_TENSOR_HEADER_BYTES = 8 * KIB
"""Largest header beside a payload; with a full part it still fits one frame."""

MAX_TOKENS = 64 * KIB
MAX_HIDDEN = 64 * KIB
MAX_PAYLOAD_BYTES = 64 * MIB
"""Largest payload of one message, and of all incomplete messages of one link together."""
MAX_INCOMPLETE = 4
MAX_CHUNK_BYTES = 1 * MIB
MAX_LISTING_BYTES = 4 * MIB
"""Largest offer, and largest table of one file's chunks: 131,072 of them, a file of 128 GiB."""

BULK_TOKENS = 8
"""A Step or Output in several parts with more tokens than this is bulk: it goes against credits."""
MAX_CREDIT_BYTES = 1024 * MIB

MAX_PENDING_STEPS = 1024
"""Steps of one session that wait at one hop: the longest prompt in the smallest sensible chunks."""

STRIKES = 3
STRIKE_SECONDS = 60.0
"""So many malformed frames within that time refuse a node id for as long again."""

PROBE_SECONDS = 0.5


class CloseCode(IntEnum):
    """Why a link ends, as a WebSocket close code."""

    GOING_AWAY = 1001
    SELF = 4000
    SECOND_LINK = 4001
    OVERLAY = 4002
    MALFORMED = 4400
    AUTHENTICATION = 4401
    BANNED = 4403
    DUPLICATE = 4409
    VERSION = 4426


CLOSE_REASONS: dict[int, str] = {
    CloseCode.GOING_AWAY: "going away",
    CloseCode.SELF: "this is yourself",
    CloseCode.SECOND_LINK: "second link of a pair",
    CloseCode.OVERLAY: "overlay change",
    CloseCode.MALFORMED: "malformed frame",
    CloseCode.AUTHENTICATION: "authentication failed",
    CloseCode.BANNED: "this node id may not take part",
    CloseCode.DUPLICATE: "another process with this node key is running",
    CloseCode.VERSION: "no protocol version in common",
}
"""All that the wire says of a refusal. AUTHENTICATION has one reason: nobody can search for secrets by it."""

GRACEFUL_CODES = frozenset({CloseCode.SELF, CloseCode.SECOND_LINK, CloseCode.OVERLAY})
"""Closes that say nothing against the peer's health."""

PREFIX_BLOCK_TOKENS = 32
"""Prefixes are named, kept and found again in blocks of so many tokens."""
PREFIX_NAME_BYTES = 16
MAX_PREFIX_BLOCKS = 2048
"""More names would not fit a frame's header; the tokens behind them are computed again."""
