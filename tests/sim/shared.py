"""One verification for all simulated nodes: pure functions of bytes are computed once a process, not once a node."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from swarm.gossip import detector, exchange, membership, table

REMEMBERED = 1 << 16
_PURE: tuple[tuple[Any, str], ...] = (
    (table, "verify_record"),
    (detector, "verify_claim"),
    (table, "decode_static"),
    (exchange, "decode_static"),
    (membership, "decode_static"),
    (table, "decode_load"),
    (exchange, "decode_load"),
    (detector, "decode_claim"),
)


def share() -> None:
    """Let later calls answer what an equal call answered before. Errors are not remembered."""
    for module, name in _PURE:
        function = getattr(module, name)
        if not hasattr(function, "cache_info"):
            setattr(module, name, lru_cache(REMEMBERED)(function))
