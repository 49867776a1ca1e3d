"""One line a request in the log, the timing header, and that neither holds a key or a user's text."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from swarm.cli.logs import JsonFormatter
from swarm.config import ApiKey
from swarm.errors import PeerError
from swarm.node.front import ServedModel
from swarm.types import LayerSpan, NodeId
from tests.support.front_door import MODEL, FakeFrontDoor, serving

KEY = "sk-very-secret-key"
WORDS = "zebra-secret-words"
KEYS = (ApiKey("ci", hashlib.sha256(KEY.encode()).digest()),)
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": WORDS}]}


def requests_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.name == "swarm.requests"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_one_line_with_id_route_tokens_and_times(
    caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    caplog.set_level(logging.INFO, "swarm")
    async with serving(keys=KEYS) as served, httpx.AsyncClient() as client:
        headers = {"Authorization": f"Bearer {KEY}"}
        url = served.url + "/v1/chat/completions"
        response = await client.post(url, json={**CHAT, "stream": stream, "max_tokens": 3}, headers=headers)
        await client.get(served.url + "/health")
    (line,) = requests_of(caplog)
    times = {name: line.pop(name) for name in ("seconds", "prepare", "reserve", "first_token", "generate")}
    assert all(seconds >= 0 for seconds in times.values())
    assert line == {
        "request_id": response.headers["x-request-id"],
        "method": "POST",
        "path": "/chat/completions",
        "status": 200,
        "operation": "chat",
        "model": MODEL,
        "stream": stream,
        "route": "aaaaaaaa=0:4, bbbbbbbb=4:8",
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "completion_tokens": 3,
        "recoveries": 0,
        "finish": "length",
        "key": "ci",
    }


async def test_an_answer_that_failed_under_way_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "swarm")
    failure = PeerError(NodeId("c" * 32), "vanished")
    front = FakeFrontDoor(script=lambda request: ["a", failure])
    async with serving(front) as served, httpx.AsyncClient() as client:
        await client.post(served.url + "/v1/chat/completions", json={**CHAT, "stream": True})
    (line,) = requests_of(caplog)
    assert (line["status"], line["error"], line["finish"]) == (200, "node_failed", "")


async def test_each_message_of_a_socket_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "swarm.requests")
    async with serving() as served, connect(served.url.replace("http", "ws") + "/v1/responses") as socket:
        for model in (MODEL, "none"):
            await socket.send(json.dumps({"type": "response.create", "model": model, "input": WORDS}))
            while json.loads(await socket.recv())["type"] not in ("response.completed", "error"):
                pass
    first, second = requests_of(caplog)
    assert (first["method"], first["path"], first["status"]) == ("WS", "/responses", 200)
    assert (second["status"], "model" in second) == (404, False)
    assert first["request_id"] != second["request_id"]


async def test_no_key_and_no_text_of_a_user_is_logged_or_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "swarm")
    front = FakeFrontDoor(script=lambda request: [WORDS, " ", WORDS])
    async with serving(front, keys=KEYS) as served, httpx.AsyncClient() as client:
        headers = {"Authorization": f"Bearer {KEY}"}
        bodies = [
            ("chat/completions", CHAT),
            ("chat/completions", {**CHAT, "stream": True}),
            ("chat/completions", {**CHAT, "model": WORDS}),
            ("chat/completions", {**CHAT, "temperature": WORDS}),
            (
                "responses",
                {"model": MODEL, "input": WORDS, "instructions": WORDS, "metadata": {WORDS: WORDS}},
            ),
            ("completions", {"model": MODEL, "prompt": WORDS, "stop": WORDS}),
            (f"responses/{WORDS}", {}),
            (WORDS, {}),
        ]
        for path, body in bodies:
            await client.post(f"{served.url}/v1/{path}", json=body, headers=headers)
            await client.post(
                f"{served.url}/v1/{path}", json=body, headers={"Authorization": f"Bearer {KEY}x"}
            )
        await client.get(f"{served.url}/v1/models/{WORDS}?q={WORDS}", headers=headers)
        metrics = (await client.get(served.url + "/metrics", headers=headers)).text
    written = "\n".join(JsonFormatter().format(record) + record.getMessage() for record in caplog.records)
    assert len(requests_of(caplog)) == 2 * len(bodies) + 2
    for secret in (KEY, WORDS):
        assert secret not in written
        assert secret not in metrics


async def test_the_timing_header_tells_what_passed_before_the_first_byte() -> None:
    front = FakeFrontDoor(script=lambda request: ["a", 0.02, "b"])
    async with serving(front) as served, httpx.AsyncClient() as client:
        url = served.url + "/v1/chat/completions"
        whole = (await client.post(url, json=CHAT)).headers["server-timing"]
        streamed = (await client.post(url, json={**CHAT, "stream": True})).headers["server-timing"]
        health = (await client.get(served.url + "/health")).headers["server-timing"]
        refused = (await client.post(url, json={})).headers["server-timing"]
    assert re.findall(r"(\w+);", whole) == ["prepare", "reserve", "first_token", "generate", "total"]
    assert float(re.findall(r"generate;dur=([\d.]+)", whole)[0]) >= 20
    assert "prepare" in streamed
    assert "first_token" not in streamed
    assert re.fullmatch(r"total;dur=[\d.]+", health)
    assert re.fullmatch(r"total;dur=[\d.]+", refused)


async def test_a_health_check_that_fails_is_for_debugging_only(caplog: pytest.LogCaptureFixture) -> None:
    """Who waits for a swarm asks once a second; a request that fails in the same way is told."""
    caplog.set_level(logging.INFO, "swarm")
    model = ServedModel(MODEL, "0" * 64, 8, 4096, 0, (LayerSpan(4, 8),))
    async with serving(FakeFrontDoor(served=(model,))) as served, httpx.AsyncClient() as client:
        for path in ("/health", "/v1/health"):
            assert (await client.get(served.url + path)).status_code == 503
        assert (await client.post(served.url + "/v1/chat/completions", json=CHAT)).status_code == 503
    assert [line["path"] for line in requests_of(caplog)] == ["/chat/completions"]
