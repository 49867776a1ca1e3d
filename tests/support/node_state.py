"""A node's state as its control socket tells it, for what shows it: two models, one with a hole, and three members."""

from __future__ import annotations

from typing import Any

ONE, TWO, THREE = ("one" + "a" * 29, "two" + "b" * 29, "six" + "c" * 29)
DIGEST, OTHER_DIGEST = "d" * 64, "e" * 64
MIB = 1 << 20


def member(node: str, name: str, *spans: tuple[str, str], **changes: Any) -> dict[str, Any]:
    """A live member; ``spans`` are (layers, digest)."""
    return {
        "node": node, "name": name, "labels": [], "state": "ready", "health": "alive", "routable": True,
        "memory_bytes": 2048 * MIB, "intended": [], "addresses": ["192.168.1.20:7410"], "api_port": 0,
        "rtt_ms": 0.8, "protocol": [1, 1], "links": [],
        "spans": [
            {"model": "org/model" if digest == DIGEST else "org/other", "digest": digest, "layers": layers,
             "of": 30 if digest == DIGEST else 8, "dtype": "bfloat16", "quantize": "none"}
            for layers, digest in spans
        ],
        "load": {"queued_rows": 0, "sessions": 1, "rows_per_second": 42.0, "rss_bytes": 900 * MIB, "spans": [],
                 "head_microseconds": 0.0},
        **changes,
    }  # fmt: skip


def served(name: str, digest: str, layers: int, *missing: str, problem: str = "") -> dict[str, Any]:
    return {
        "name": name, "digest": digest, "layers": layers, "servable": not missing and not problem,
        "missing": list(missing), "problem": problem,
    }  # fmt: skip


def session(number: int, tokens: int, **changes: Any) -> dict[str, Any]:
    return {
        "number": number, "age_seconds": 12.0, "model": "org/model", "prompt_tokens": 20, "completion_tokens": tokens,
        "recoveries": 0, "moves": 0,
        "route": [{"node": ONE, "name": "desk", "layers": "0:10"}, {"node": TWO, "name": "rack", "layers": "10:30"}],
        **changes,
    }  # fmt: skip


def node_state(**changes: Any) -> dict[str, Any]:
    """What node ``desk`` says."""
    return {
        "node": ONE, "version": "1.2.3", "api": None,
        "members": [
            member(TWO, "rack", ("10:30", DIGEST), ("0:4", OTHER_DIGEST),
                   links=[{"node_prefix": ONE[:8], "rtt_ms": 0.8, "unreachable": False},
                          {"node_prefix": THREE[:8], "rtt_ms": 0.0, "unreachable": True}]),
            member(ONE, "desk", ("0:10", DIGEST), rtt_ms=None),
            member(THREE, "attic", ("20:30", DIGEST), health="suspect", routable=False),
        ],
        "models": [served("org/model", DIGEST, 30), served("org/other", OTHER_DIGEST, 8, "4:8")],
        "sessions": [session(7, 100)],
        "engine": {"kv_budget_bytes": 512 * MIB, "kv_used_bytes": 64 * MIB, "queued_jobs": 0, "hop_sessions": 3},
        "holding": [
            {"model": "org/model", "digest": DIGEST, "of": 30, "told": "auto", "layers": ["0:10"], "doing": ""}
        ],
        "memory": {"total_bytes": 2048 * MIB, "weights_bytes": 300 * MIB, "ends_bytes": 100 * MIB,
                   "kv_bytes": 512 * MIB, "overhead_bytes": 600 * MIB},
        "door": {"listen": "127.0.0.1:8000", "keys": [{"id": "0123456789ab", "name": "laptop"}], "problem": ""},
        **changes,
    }  # fmt: skip
