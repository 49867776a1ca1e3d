"""The swarm as JSON values for people and scripts. Shows no keys, no session ids and no text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.engine.jobs import EngineStats
    from swarm.gossip.member import Member
    from swarm.net.peers import LinkStats
    from swarm.node.front import ServedModel
    from swarm.node.sharing import WeightTraffic
    from swarm.types import NodeId


def swarm_state(
    own: NodeId,
    members: Iterable[Member],
    models: Iterable[ServedModel],
    sessions: list[dict[str, Any]],
    engine: EngineStats,
    *,
    hop_sessions: int,
    loop_lag: Mapping[str, float],
    traffic: Mapping[NodeId, LinkStats],
    weights: WeightTraffic,
    detail: bool,
) -> dict[str, Any]:
    """Build what /swarm/state answers; addresses and links only with ``detail``."""
    state: dict[str, Any] = {
        "node": own,
        "members": [_member(member, detail) for member in members],
        "models": [
            {
                "name": model.name,
                "digest": model.digest,
                "layers": model.layers,
                "servable": model.servable,
                "missing": [str(span) for span in model.missing],
                "problem": model.problem,
            }
            for model in models
        ],
        "sessions": sessions,
        "engine": {
            "kv_budget_bytes": engine.kv_budget_bytes,
            "kv_used_bytes": engine.kv_used_bytes,
            "sequences": engine.sequences,
            "queued_jobs": engine.queued_jobs,
            "steps": engine.steps,
            "rows": engine.rows,
            "busy_seconds": round(engine.busy_seconds, 3),
            "weight_bytes": engine.weight_bytes,
            "kv_kept_bytes": engine.kv_kept_bytes,
            "hop_sessions": hop_sessions,
        },
        "loop_lag_ms": dict(loop_lag),
        "weights": {
            "bytes_sent": weights.bytes_sent,
            "bytes_received": weights.bytes_received,
            "wrong_chunks": weights.wrong_chunks,
            "fetching": {
                what: {"bytes_received": came, "bytes_wanted": wanted}
                for what, (came, wanted) in weights.under_way.items()
            },
        },
    }
    if detail:
        state["traffic"] = {
            node: {"bytes_sent": link.bytes_sent, "bytes_received": link.bytes_received}
            for node, link in traffic.items()
        }
    return state


def _member(member: Member, detail: bool) -> dict[str, Any]:
    record, load = member.record, member.load
    shown: dict[str, Any] = {
        "node": member.node,
        "name": record.name,
        "labels": list(record.labels),
        "state": record.state,
        "memory_bytes": record.memory_bytes,
        "intended": [{"model": one.model.name, "layers": str(one.span)} for one in record.intended],
        "health": member.health.name.lower(),
        "routable": member.routable,
        "spans": [
            {
                "model": hosted.model.name,
                "digest": hosted.model.digest,
                "layers": str(hosted.span),
                "of": hosted.layers,
                "dtype": hosted.dtype,
                "quantize": hosted.quantize,
            }
            for hosted in record.spans
        ],
    }
    if load is not None:
        shown["load"] = {
            "queued_rows": load.queued_rows,
            "sessions": load.sessions,
            "rows_per_second": round(load.tokens_per_second, 2),
            "rss_bytes": load.rss_bytes,
            "head_microseconds": round(load.head_microseconds, 1),
            "spans": [
                {
                    "layers": str(record.spans[span.index].span),
                    "microseconds_per_layer": round(span.microseconds_per_layer, 1),
                    "row_microseconds": round(span.row_microseconds, 2),
                    "free_kv_tokens": span.free_kv_tokens,
                }
                for span in load.spans
                if span.index < len(record.spans)
            ],
        }
    if detail:
        shown["addresses"] = [str(address) for address in record.addresses]
        shown["api_port"] = record.api_port
        shown["rtt_ms"] = None if member.rtt_seconds is None else round(member.rtt_seconds * 1e3, 3)
        shown["protocol"] = [record.protocol_min, record.protocol_max]
        shown["links"] = [
            {
                "node_prefix": link.node_prefix,
                "rtt_ms": round(link.rtt_microseconds / 1e3, 3),
                "unreachable": link.unreachable,
            }
            for link in (load.links if load else ())
        ]
    return shown
