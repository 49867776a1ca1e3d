"""The public cases of the Open Responses compliance suite, answered and checked against that specification's schema.

The suite itself is a part of a web site's sources and no package. These are its cases, with what each demands: the
models of ``openresponses-types`` are generated from the schema that it validates with.
"""

from __future__ import annotations

import inspect
import json
from enum import StrEnum
from typing import Any, get_args

import httpx
import openresponses_types as spec
import pytest
from pydantic import BaseModel

from swarm.errors import PeerError
from swarm.node.front import GenerationRequest
from swarm.types import NodeId
from tests.support.front_door import MODEL, FakeFrontDoor, Served, Step, serving

WEATHER_TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "The city and state"}},
        "required": ["location"],
    },
}


def _event_models() -> dict[str, type[BaseModel]]:
    """Every streaming event of the schema by the type it carries."""
    found: dict[str, type[BaseModel]] = {}
    for name, kind in vars(spec).items():
        if name.endswith("StreamingEvent") and inspect.isclass(kind):
            annotation = kind.model_fields["type"].annotation
            values = list(annotation) if inspect.isclass(annotation) else get_args(annotation)
            found |= {str(value.value if isinstance(value, StrEnum) else value): kind for value in values}
    return found


EVENTS = _event_models()


def message(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


def script(request: GenerationRequest) -> list[Step]:
    prompt = "".join(map(chr, request.prompt))
    if "get_weather" in prompt:
        return [
            "<think>I must ",
            "look.</think>",
            '{"name": "get_weather", "arguments": ',
            '{"location": "SF"}}',
        ]
    if "Think" in prompt:
        return ["<think>Hm", "m.</think>", "Yes."]
    return ["Well"] if "fail" not in prompt else ["We", PeerError(NodeId("c" * 32), "vanished")]


async def ask(served: Served, path: str = "", **body: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        url = f"{served.url}/v1/responses{path}"
        return await client.post(
            url, json={"model": MODEL, **body}, headers={"Authorization": "Bearer k"}, timeout=30
        )


async def resource(**body: Any) -> spec.ResponseResource:
    async with serving(FakeFrontDoor(script=script)) as served:
        response = await ask(served, **body)
    assert response.status_code == 200, response.text
    return spec.ResponseResource.model_validate(response.json())


async def stream(**body: Any) -> tuple[list[dict[str, Any]], spec.ResponseResource]:
    """Return every event, each valid by its own model, and the response that the last one holds."""
    async with serving(FakeFrontDoor(script=script)) as served:
        response = await ask(served, stream=True, **body)
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line[6:] for line in response.text.split("\n") if line.startswith("data: {")]
    events = [json.loads(line) for line in lines]
    for event in events:
        EVENTS[event["type"]].model_validate(event)
    return events, spec.ResponseResource.model_validate(events[-1]["response"])


CASES: dict[str, dict[str, Any]] = {
    "basic-response": {"input": [message("user", "Say hello in exactly 3 words.")]},
    "system-prompt": {"input": [message("system", "You are a pirate."), message("user", "Say hello.")]},
    "multi-turn": {
        "input": [
            message("user", "My name is Alice."),
            message("assistant", "Hello Alice! Nice to meet you."),
            message("user", "What is my name?"),
        ]
    },
    "parts": {
        "input": [message("developer", [{"type": "input_text", "text": "Brief."}]), message("user", "Hi")]
    },
    "echo": {
        "input": "Hi",
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "max_output_tokens": 20,
        "max_tool_calls": 3,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "prompt_cache_key": "p",
        "safety_identifier": "s",
        "top_logprobs": 2,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
    },
    "tools": {
        "input": "Hi",
        "tools": [{**WEATHER_TOOL, "name": "other"}],
        "tool_choice": {"type": "function", "name": "other"},
    },
}


@pytest.mark.parametrize("body", CASES.values(), ids=CASES)
async def test_a_whole_answer_is_a_valid_and_completed_resource(body: dict[str, Any]) -> None:
    found = await resource(**body)
    assert found.output
    assert found.status == "completed"


async def test_a_resource_repeats_what_the_request_said() -> None:
    found = (await resource(**CASES["echo"])).model_dump(mode="json")
    asked = {
        name: value for name, value in CASES["echo"].items() if name not in ("input", "reasoning", "text")
    }
    assert {name: found[name] for name in asked} == asked
    assert found["reasoning"]["effort"] == "low"
    assert found["text"] == {"format": {"type": "json_object"}, "verbosity": "low"}


@pytest.mark.parametrize("text", ["Count from 1 to 5.", "Think, then answer."])
async def test_a_stream_consists_of_valid_events_and_ends_completed(text: str) -> None:
    events, final = await stream(input=[message("user", text)])
    assert final.status == "completed"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (final.output[0].type == "reasoning") is text.startswith("Think")


async def test_a_tool_is_called_in_a_whole_answer() -> None:
    found = await resource(input=[message("user", "What's the weather like?")], tools=[WEATHER_TOOL])
    assert [item.type for item in found.output] == ["reasoning", "function_call"]


async def test_a_tool_is_called_in_a_stream() -> None:
    events, _ = await stream(input=[message("user", "What's the weather like?")], tools=[WEATHER_TOOL])
    calls = [event for event in events if event.get("item", {}).get("type") == "function_call"]
    assert [event["type"] for event in calls] == ["response.output_item.added", "response.output_item.done"]
    types = [event["type"] for event in events]
    first = types.index("response.function_call_arguments.delta")
    assert types[first + 1] == "response.function_call_arguments.done"


async def test_the_other_ends_of_a_stream_are_valid_too() -> None:
    _, cut = await stream(input="Hi", max_output_tokens=1)
    assert cut.status == "completed"
    _, cut = await stream(input="Think", max_output_tokens=1)
    assert (cut.status, cut.incomplete_details) == (
        "incomplete",
        spec.IncompleteDetails(reason="max_output_tokens"),
    )
    _, failed = await stream(input="fail")
    assert failed.status == "failed"
    assert failed.error is not None


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_allowed_tools_narrow_the_choice(mode: str) -> None:
    front = FakeFrontDoor()
    choice = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "b"}]}
    tools = [{**WEATHER_TOOL, "name": name} for name in "abc"]
    async with serving(front) as served:
        response = await ask(served, input="Hi", tools=tools, tool_choice=choice)
        unknown = await ask(served, input="Hi", tools=tools[:1], tool_choice=choice)
    assert response.status_code == 200, response.text
    found = spec.ResponseResource.model_validate(response.json())
    assert found.model_dump(mode="json")["tool_choice"] == choice
    assert len(found.tools) == 3
    (grammar,) = [generation.request.grammar for generation in front.generations]
    assert (grammar is not None) is (mode == "required")
    if grammar is not None:
        assert '"b"' in grammar.source
        assert '"a"' not in grammar.source
    assert unknown.json()["error"]["param"] == "tool_choice"


async def test_compaction_is_a_valid_resource() -> None:
    async with serving() as served:
        response = await ask(served, "/compact", input=[message("user", "Hi"), message("assistant", "Hello")])
    spec.CompactResource.model_validate(response.json())


async def test_an_image_is_refused_by_name_as_the_models_read_text_only() -> None:
    """The suite's case of an image: it passes on servers of multimodal models only."""
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    async with serving() as served:
        response = await ask(
            served, input=[message("user", [{"type": "input_text", "text": "What is it?"}, image])]
        )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input[0].content[1].type"
