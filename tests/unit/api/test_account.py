"""What one request came to, as its timing header and its line of the log tell it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from swarm.api.account import Account
from swarm.node.front import Generation, GenerationStats, RouteHop
from swarm.types import LayerSpan, NodeId

HOPS = (
    RouteHop(NodeId("a" * 32), 'an"na', LayerSpan(0, 4)),
    RouteHop(NodeId("b" * 32), "ben", LayerSpan(4, 8)),
)


def account(**fields: Any) -> Account:
    stats = GenerationStats(
        prompt_tokens=12, completion_tokens=5, hop_compute_seconds=[0.25, 0.5], hop_queue_seconds=[0.0, 0.125]
    )
    generation = cast(Generation, SimpleNamespace(route=HOPS, stats=stats))
    told = Account(began=10.0, operation="chat", model="m", generations=[generation])
    for name, value in fields.items():
        setattr(told, name, value)
    return told


def test_the_header_tells_the_steps_and_each_hop() -> None:
    whole = account(asked_at=10.5, opened_at=11.0, first_token_at=12.0)
    assert whole.timing(14.0) == (
        "prepare;dur=500.0, reserve;dur=500.0, first_token;dur=1000.0, generate;dur=2000.0, total;dur=4000.0, "
        'hop0;desc="aaaaaaaa=0:4";dur=250.0, hop0-queue;dur=0.0, '
        'hop1;desc="bbbbbbbb=4:8";dur=500.0, hop1-queue;dur=125.0'
    )


def test_what_has_not_happened_yet_is_not_told() -> None:
    assert Account(began=1.0).timing(2.0) == "total;dur=1000.0"
    assert (
        Account(began=1.0, asked_at=1.5, generations=()).timing(2.0) == "prepare;dur=500.0, total;dur=1000.0"
    )


def test_the_log_tells_tokens_route_and_why_the_answer_ended() -> None:
    told = account(asked_at=10.5, opened_at=11.0, first_token_at=12.0, finished=["stop"]).told(14.0)
    assert told["route"] == "aaaaaaaa=0:4, bbbbbbbb=4:8"
    assert (told["prompt_tokens"], told["completion_tokens"], told["finish"]) == (12, 5, "stop")
    assert (told["first_token"], told["generate"]) == (1.0, 2.0)
    assert "error" not in told
    assert account(error="node_failed").told(14.0)["error"] == "node_failed"


def test_a_request_that_generates_nothing_has_nothing_to_tell() -> None:
    assert Account(began=1.0).told(2.0) == {}
