"""Responses over WebSocket: the events of the stream, one request after the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import httpx
import openai
from websockets.asyncio.client import ClientConnection, connect

from swarm.config import ApiKey
from tests.support.front_door import MODEL, FakeFrontDoor, Served, eventually, serving

CREATE = {"type": "response.create", "model": MODEL, "input": "Hi"}


@asynccontextmanager
async def connected(served: Served, key: str = "k") -> AsyncIterator[ClientConnection]:
    url = f"ws://{served.address}/v1/responses"
    async with connect(url, additional_headers={"Authorization": f"Bearer {key}"}, proxy=None) as socket:
        yield socket


async def asked(socket: ClientConnection, **fields: Any) -> list[dict[str, Any]]:
    """Send one request and return its events."""
    await socket.send(json.dumps({**CREATE, **fields}))
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] not in ("response.completed", "response.failed", "error"):
        async with asyncio.timeout(10):
            events.append(json.loads(await socket.recv()))
    return events


async def test_a_socket_tells_the_events_of_the_stream() -> None:
    async with serving() as served, httpx.AsyncClient() as client:
        body = {**CREATE, "stream": True}
        streamed = (await client.post(served.url + "/v1/responses", json=body)).text
        async with connected(served) as socket:
            events = await asked(socket)
    lines = [line.removeprefix("data: ") for line in streamed.splitlines() if line.startswith("data: {")]
    assert [event["type"] for event in events] == [json.loads(line)["type"] for line in lines]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output_text"] == "Hello, world!"


async def test_a_socket_serves_one_turn_after_the_other() -> None:
    async with serving() as served, connected(served) as socket:
        first = (await asked(socket))[-1]["response"]
        second = (await asked(socket, previous_response_id=first["id"], input="And?"))[-1]["response"]
    assert first["id"] != second["id"]
    (_, rendered) = served.front.chat_tokenizer.rendered
    assert [message["content"] for message in rendered["messages"]] == ["Hi", "Hello, world!", "And?"]
    assert all(generation.closed for generation in served.front.generations)


async def test_a_wrong_message_is_an_error_and_the_socket_lives_on() -> None:
    async with serving() as served, connected(served) as socket:
        for fields, param in (
            ({"type": "response.cancel"}, "type"),
            ({"input": 7}, "input"),
            ({"temperature": 9}, "temperature"),
        ):
            (error,) = await asked(socket, **fields)
            assert error["status"] == 400
            assert error["error"]["param"] == param
        await socket.send("not json")
        assert json.loads(await socket.recv())["error"]["code"] == "invalid_json"
        assert (await asked(socket))[-1]["type"] == "response.completed"


async def test_each_message_counts_as_a_request_of_its_key() -> None:
    slow = ApiKey("slow", sha256(b"b").digest(), requests_per_minute=1)
    async with serving(keys=(slow,)) as served, connected(served, "b") as socket:
        assert (await asked(socket))[-1]["type"] == "response.completed"
        (error,) = await asked(socket)
    assert error["status"] == 429


async def test_a_client_that_leaves_ends_its_answer() -> None:
    front = FakeFrontDoor(script=lambda request: ["a", asyncio.Event()])
    async with serving(front) as served:
        async with connected(served) as socket:
            await socket.send(json.dumps(CREATE))
            await eventually(lambda: len(front.generations) == 1)
            assert json.loads(await socket.recv())["type"] == "response.created"
        await eventually(lambda: front.generations[0].closed)


async def test_openais_own_client_speaks_to_the_socket() -> None:
    async with (
        serving() as served,
        openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="k") as client,
        client.responses.connect() as connection,
    ):
        await connection.response.create(model=MODEL, input="Hi")
        text = ""
        async for event in connection:
            if event.type == "response.output_text.delta":
                text += event.delta
            if event.type == "response.completed":
                break
    assert text == "Hello, world!"
