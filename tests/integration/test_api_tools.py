"""Function tools in chat over real HTTP."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.support.front_door import MODEL, FakeFrontDoor, Served, serving

MESSAGES: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
CALL = ["Let me ", "look. ", '{"name": "get_w', 'eather", "arguments": {"city"', ': "Paris"}}']


def client_of(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=served.url + "/v1", api_key="k", max_retries=0, _strict_response_validation=True
    )


async def test_a_call_is_answered_in_openais_shape() -> None:
    async with serving(FakeFrontDoor(script=lambda request: CALL)) as served, client_of(served) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=TOOLS)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls or []
    assert [(call.type, call.function.name, json.loads(call.function.arguments)) for call in calls] == [  # type: ignore[union-attr]
        ("function", "get_weather", {"city": "Paris"})
    ]
    assert calls[0].id.startswith("call_")
    assert choice.message.content == "Let me look. "
    shown = served.front.chat_tokenizer.rendered[0]["messages"]
    assert shown[0]["role"] == "system"
    assert '"get_weather"' in shown[0]["content"]


async def test_streamed_calls_have_index_always_and_id_type_and_name_once() -> None:
    async with serving(FakeFrontDoor(script=lambda request: CALL)) as served, client_of(served) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=TOOLS, stream=True
        )
        chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == "Let me look. "
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [call.index for call in calls] == [0, 0]
    assert [call.id is not None for call in calls] == [True, False]
    assert [call.type for call in calls] == ["function", None]
    assert [call.function.name if call.function else None for call in calls] == ["get_weather", None]
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert json.loads(arguments) == {"city": "Paris"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_without_parallel_calls_the_answer_ends_with_the_first() -> None:
    twice = FakeFrontDoor(script=lambda request: [*CALL, "\n", *CALL])
    async with serving(twice) as served, client_of(served) as client:
        one = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=TOOLS, parallel_tool_calls=False
        )
        two = await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=TOOLS)
    assert len(one.choices[0].message.tool_calls or ()) == 1
    assert len(two.choices[0].message.tool_calls or ()) == 2
    assert twice.generations[0].closed


async def test_tool_choice_none_shows_no_tools_and_reads_no_calls() -> None:
    async with serving(FakeFrontDoor(script=lambda request: CALL)) as served, client_of(served) as client:
        answer = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=TOOLS, tool_choice="none"
        )
    assert answer.choices[0].message.content == "".join(CALL)
    assert answer.choices[0].finish_reason == "stop"
    assert [message["role"] for message in served.front.chat_tokenizer.rendered[0]["messages"]] == ["user"]


async def test_a_template_that_takes_tools_gets_them_and_special_tokens_are_seen() -> None:
    front = FakeFrontDoor(script=lambda request: CALL)
    front.chat_tokenizer.takes_tools = True
    front.chat_tokenizer.chat_template = "{{ tools }}<tool_call>"
    front.script = lambda request: [
        "<tool_call>",
        '\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n',
        "</tool_call>",
    ]
    async with serving(front) as served, client_of(served) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=TOOLS)
    assert front.chat_tokenizer.rendered[0]["tools"][0]["function"]["name"] == "get_weather"
    assert len(answer.choices[0].message.tool_calls or ()) == 1
    assert answer.choices[0].message.content is None


async def test_hosted_tools_are_400() -> None:
    hosted: Any = [{"type": "web_search"}]
    async with serving() as served, client_of(served) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=hosted)
    assert refused.value.param == "tools[0].type"
