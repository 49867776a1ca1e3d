"""The ``swarm`` object of a body: which nodes a path may use, and what usage says of the path."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.front_door import MODEL, FakeFrontDoor, Served, serving

MESSAGES = [{"role": "user", "content": "Hi"}]


async def post(served: Served, path: str, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.post(f"{served.url}/v1/{path}", json={"model": MODEL, **fields}, timeout=30)


async def test_wishes_for_the_path_reach_the_node() -> None:
    swarm = {"trust": ["anna", "b" * 32], "max_hops": 2, "prefer": "throughput", "timeout": 5}
    async with serving() as served:
        assert (await post(served, "chat/completions", messages=MESSAGES, swarm=swarm)).status_code == 200
    request = served.front.generations[0].request
    assert request.trust == {"anna", "b" * 32}
    assert request.max_hops == 2
    assert request.prefer == "throughput"
    assert request.deadline_seconds == pytest.approx(5, abs=2)  # less what it waited for its turn


async def test_without_wishes_every_node_may_be_used_for_latency() -> None:
    async with serving() as served:
        await post(served, "chat/completions", messages=MESSAGES)
    request = served.front.generations[0].request
    assert (request.trust, request.max_hops, request.prefer) == (None, None, "latency")


@pytest.mark.parametrize(
    ("swarm", "param"),
    [
        ({"prefer": "luck"}, "swarm.prefer"),
        ({"max_hops": 0}, "swarm.max_hops"),
        ({"trust": "anna"}, "swarm.trust"),
        ({"trust": [1]}, "swarm.trust[0]"),
        ({"route": "yes"}, "swarm.route"),
        ({"timeout": -1}, "timeout"),
    ],
)
async def test_a_wrong_wish_is_refused_by_name(swarm: dict[str, Any], param: str) -> None:
    async with serving() as served:
        response = await post(served, "chat/completions", messages=MESSAGES, swarm=swarm)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("chat/completions", {"messages": MESSAGES}),
        ("completions", {"prompt": "Hi"}),
        ("responses", {"input": "Hi"}),
    ],
)
async def test_usage_tells_the_route_and_each_hops_time_when_asked(path: str, fields: dict[str, Any]) -> None:
    front = FakeFrontDoor()
    async with serving(front) as served:
        plain = (await post(served, path, **fields)).json()["usage"]
        told = (await post(served, path, **fields, swarm={"route": True})).json()["usage"]
    assert "swarm" not in plain
    full = {"quantize": "none"}
    assert told["swarm"] == {
        "route": [
            {"node": "a" * 32, "name": "anna", "layers": "0:4", "compute_ms": 0, "queue_ms": 0, **full},
            {"node": "b" * 32, "name": "ben", "layers": "4:8", "compute_ms": 0, "queue_ms": 0, **full},
        ]
    }
