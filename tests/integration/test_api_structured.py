"""Structured output and forced calls over real HTTP: demanded of the node as a grammar, or refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.front_door import MODEL, FakeFrontDoor, Served, serving

MESSAGES = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CHAT_TOOLS = [{"type": "function", "function": TOOL}, {"type": "function", "function": {"name": "other"}}]
CALL = ['{"name": "get_weather", ', '"arguments": {"city": "Paris"}}']


async def chat(served: Served, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        body = {"model": MODEL, "messages": MESSAGES, **fields}
        return await client.post(served.url + "/v1/chat/completions", json=body, timeout=30)


async def respond(served: Served, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        body = {"model": MODEL, "input": "Hi", **fields}
        return await client.post(served.url + "/v1/responses", json=body, timeout=30)


async def test_plain_text_is_held_to_nothing() -> None:
    async with serving() as served:
        await chat(served)
        await chat(served, response_format={"type": "text"})
        await respond(served, text={"format": {"type": "text"}})
    assert [generation.request.grammar for generation in served.front.generations] == [None] * 3


async def test_both_apis_demand_the_same_grammar_of_the_node() -> None:
    nested = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    flat = {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}
    async with serving() as served:
        assert (await chat(served, response_format=nested)).status_code == 200
        assert (await respond(served, text={"format": flat})).status_code == 200
        assert (await chat(served, response_format={"type": "json_object"})).status_code == 200
    first, second, third = (generation.request.grammar for generation in served.front.generations)
    assert first is not None
    assert first == second
    assert third is not None
    assert third != first


async def test_the_grammar_begins_behind_the_reasoning_of_models_that_reason() -> None:
    fields = {"response_format": {"type": "json_object"}}
    front = FakeFrontDoor()
    async with serving(front) as served:
        for template, suffix, expected in (
            ("{{ messages }}", "<assistant>", "none"),
            ("{{ messages }}</think>", "<assistant>", "optional"),
            ("{{ messages }}</think>", "<assistant><think>\n", "open"),
            ("{{ messages }}</think>", "<assistant><think>\n\n</think>\n\n", "none"),
        ):
            front.chat_tokenizer.chat_template = template
            front.chat_tokenizer.prompt_suffix = suffix
            await chat(served, **fields)
            grammar = front.generations[-1].request.grammar
            assert grammar is not None
            assert grammar.reasoning == expected


@pytest.mark.parametrize(
    ("form", "param", "named"),
    [
        ({"type": "yaml"}, "response_format.type", "yaml"),
        ({}, "response_format.type", "None"),
        ({"type": "json_schema"}, "response_format.json_schema.schema", "Missing"),
        (
            {"type": "json_schema", "json_schema": {"schema": 5}},
            "response_format.json_schema.schema",
            "object",
        ),
        (
            {"type": "json_schema", "json_schema": {"schema": {"not": {"type": "string"}}}},
            "response_format.json_schema.schema",
            "not",
        ),
        ({"type": "grammar", "syntax": "bnf", "definition": "x"}, "response_format.syntax", "bnf"),
        (
            {"type": "grammar", "syntax": "lark", "definition": "start: b"},
            "response_format.definition",
            '"b"',
        ),
    ],
)
async def test_what_can_not_be_enforced_is_400_and_named(
    form: dict[str, Any], param: str, named: str
) -> None:
    async with serving() as served:
        response = await chat(served, response_format=form)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert named in response.json()["error"]["message"]
    assert served.front.generations == []


async def test_regex_and_lark_are_an_extension() -> None:
    async with serving() as served:
        for syntax, definition in (("lark", 'start: "a"'), ("regex", "[ab]+")):
            form = {"type": "grammar", "syntax": syntax, "definition": definition}
            assert (await chat(served, response_format=form)).status_code == 200
    assert all(generation.request.grammar for generation in served.front.generations)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_a_forced_call_is_demanded_of_the_node_and_read_in_every_family(choice: Any) -> None:
    front = FakeFrontDoor(script=lambda request: CALL)
    front.chat_tokenizer.takes_tools = True
    front.chat_tokenizer.chat_template = "{{ tools }}<tool_call>"
    async with serving(front) as served:
        answer = (await chat(served, tools=CHAT_TOOLS, tool_choice=choice)).json()
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"][0]["function"]["name"] == "get_weather"
    grammar = front.generations[0].request.grammar
    assert grammar is not None
    assert ("other" in grammar.source) is (choice == "required")


async def test_a_format_beside_tools_allows_a_call_or_the_format() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    front = FakeFrontDoor(script=lambda request: ['{"a":', "5}"] if len(front.generations) == 0 else CALL)
    async with serving(front) as served:
        plain = (await chat(served, tools=CHAT_TOOLS, response_format=form)).json()["choices"][0]
        called = (await chat(served, tools=CHAT_TOOLS, response_format=form)).json()["choices"][0]
    assert json.loads(plain["message"]["content"]) == {"a": 5}
    assert plain["finish_reason"] == "stop"
    assert called["finish_reason"] == "tool_calls"


async def test_tools_whose_schema_can_not_be_enforced_are_refused_only_when_forced() -> None:
    bad = [{"type": "function", "function": {"name": "f", "parameters": {"not": {"type": "object"}}}}]
    async with serving() as served:
        free = await chat(served, tools=bad)
        forced = await chat(served, tools=bad, tool_choice="required")
    assert free.status_code == 200
    assert (forced.status_code, forced.json()["error"]["param"]) == (400, "tools")
