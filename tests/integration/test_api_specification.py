"""Sentences of the specification that no other test shows; docs/api-conformance.md says which test shows which."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import httpx
import pytest

from swarm.api.app import create_app
from swarm.config import ApiSettings
from tests.support.front_door import MODEL, FakeFrontDoor, Served, Step, in_this_process, serving

TOOLS: list[Any] = [{"type": "function", "name": "get_weather", "parameters": {"type": "object"}}]
CHAT_TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
HELLO = [{"role": "user", "content": "Hi"}]
CALL = '{"name": "get_weather", "arguments": {"city": "Chicago"}}'


async def post(
    served: Served, path: str, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    body = {"model": MODEL, **fields}
    body.setdefault("input" if path == "responses" else "messages", "Hi" if path == "responses" else HELLO)
    async with httpx.AsyncClient() as client:
        return await client.post(f"{served.url}/v1/{path}", json=body, headers=headers, timeout=30)


@pytest.mark.parametrize("given", [None, "Bearer anything", "Bearer", "Basic eDp5", "nonsense"])
async def test_without_keys_any_key_and_none_is_accepted(given: str | None) -> None:
    async with serving() as served:
        headers = {} if given is None else {"Authorization": given}
        assert (await post(served, "chat/completions", headers)).status_code == 200


@pytest.mark.parametrize(
    "kind",
    ["web_search", "web_search_preview", "file_search", "computer_use_preview", "code_interpreter", "mcp"],
)
async def test_every_hosted_tool_is_400_in_both_apis(kind: str) -> None:
    async with serving() as served:
        for path in ("responses", "chat/completions"):
            response = await post(served, path, tools=[{"type": kind}])
            assert response.status_code == 400
            assert kind in response.json()["error"]["message"]
    assert served.front.generations == []


@pytest.mark.parametrize(
    "text", ['{"name": "get_weather", "arguments": {"city": ', '{"name": get_weather}', '{"name": "unknown"}']
)
async def test_a_malformed_call_is_plain_text(text: str) -> None:
    script: list[Step] = list(text)
    async with serving(FakeFrontDoor(script=lambda request: script)) as served:
        response = (await post(served, "responses", tools=TOOLS)).json()
        streamed = (await post(served, "responses", tools=TOOLS, stream=True)).text
        chat = (await post(served, "chat/completions", tools=CHAT_TOOLS)).json()["choices"][0]
    assert [item["type"] for item in response["output"]] == ["message"]
    assert response["output_text"] == chat["message"]["content"] == text
    assert chat["finish_reason"] == "stop"
    deltas = [json.loads(line[6:]) for line in streamed.split("\n") if line.startswith("data: {")]
    assert "".join(d["delta"] for d in deltas if d["type"] == "response.output_text.delta") == text


@pytest.mark.parametrize("around", ["{}", "Sure: {} That is all.", "```json\n{}\n```"])
@pytest.mark.parametrize("reasoning", ["", "<think>The user asks for {weather}.</think>\n\n"])
async def test_a_call_is_found_behind_reasoning_and_amid_prose(around: str, reasoning: str) -> None:
    script: list[Step] = list(reasoning + around.replace("{}", CALL))
    async with serving(FakeFrontDoor(script=lambda request: script)) as served:
        response = (await post(served, "responses", tools=TOOLS)).json()
    *before, call = response["output"]
    assert (call["type"], call["name"], json.loads(call["arguments"])) == (
        "function_call", "get_weather", {"city": "Chicago"},
    )  # fmt: skip
    assert [item["type"] for item in before] == (["reasoning"] if reasoning else [])
    assert [item["summary"][0]["text"] for item in before] == (
        ["The user asks for {weather}."] if reasoning else []
    )
    assert response["output_text"] == ""


async def test_every_item_of_a_buffered_stream_comes_at_completion() -> None:
    """The specification's letter, with its order and, for a call, its one delta."""
    script: list[Step] = ["<think>Let me ", "look.</think>", CALL[:10], CALL[10:]]
    async with serving(FakeFrontDoor(script=lambda request: script), buffer_tools=True) as served:
        text = (await post(served, "responses", tools=TOOLS, stream=True)).text
    events = [line[7:] for line in text.split("\n") if line.startswith("event: ")]
    assert [name for name, _ in groupby(events)] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, 1000),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_output_tokens": 7, "max_tokens": 5, "max_completion_tokens": 6}, 7),
    ],
)
async def test_responses_take_the_legacy_names_of_the_token_limit(
    fields: dict[str, Any], tokens: int
) -> None:
    async with serving() as served:
        assert (await post(served, "responses", **fields)).status_code == 200
    assert served.front.generations[0].request.max_tokens == tokens


async def test_responses_take_the_sampling_fields_of_chat() -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "presence_penalty": -0.5}
    async with serving() as served:
        await post(served, "responses", **fields)
        await post(served, "chat/completions", **fields)
        await post(served, "responses")
    first, second, plain = (generation.request.sampling for generation in served.front.generations)
    assert {name: getattr(first, name) for name in fields} == fields
    assert {name: getattr(second, name) for name in fields} == fields
    defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "presence_penalty": 0.0}
    assert {name: getattr(plain, name) for name in defaults} == defaults


async def test_parallel_tool_calls_is_accepted_and_no_parallel_call_is_produced() -> None:
    async with serving(FakeFrontDoor(script=lambda request: [CALL, CALL])) as served:
        for stream in (False, True):
            response = await post(served, "responses", tools=TOOLS, parallel_tool_calls=True, stream=stream)
            assert response.text.count('"call_id"') in (
                1,
                3,
            )  # a stream tells it as added, done and completed
            assert response.status_code == 200


@pytest.mark.parametrize(
    ("address", "key", "detail"),
    [("127.0.0.1", None, True), ("10.0.0.9", None, False), ("10.0.0.9", "k", True)],
)
async def test_detail_of_the_state_is_for_loopback_or_a_key(
    address: str, key: str | None, detail: bool
) -> None:
    settings = ApiSettings(keys=("k",) if key else ())
    app = create_app(FakeFrontDoor(), settings, version="1", render=in_this_process)
    transport = httpx.ASGITransport(app, client=(address, 50000))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.5") as client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        assert (await client.get("/swarm/state", headers=headers)).json()["detail"] is detail
