"""Tool definitions and the parsers of calls, fed whole and one character at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.api.reasoning import Part
from swarm.api.tools.bare_json import BareJsonParser
from swarm.api.tools.calls import Call, ToolParser
from swarm.api.tools.choose import family_of
from swarm.api.tools.definitions import FunctionTool, tools_of
from swarm.api.tools.harmony import HarmonySplitter
from swarm.api.tools.instructions import with_plain_calls, with_tool_block
from swarm.api.tools.marked import hermes, mistral, qwen3_coder
from swarm.api.tools.use import choice_of
from swarm.errors import RequestError

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
WEATHER = FunctionTool("get_weather", "Weather of a city", SCHEMA)


def bare() -> BareJsonParser:
    return BareJsonParser({"get_weather"})


def coder() -> ToolParser:
    return qwen3_coder({"get_weather": SCHEMA})


def read(parser: ToolParser, pieces: list[str]) -> tuple[str, list[tuple[str, Any]]]:
    found = [item for piece in pieces for item in parser.push(piece)] + parser.finish()
    text = "".join(item for item in found if isinstance(item, str))
    return text, [(item.name, json.loads(item.arguments)) for item in found if isinstance(item, Call)]


PARIS = ("get_weather", {"city": "Paris"})
OBJECT = '{"name": "get_weather", "arguments": {"city": "Paris"}}'

RECORDED = [
    (hermes, f"<tool_call>\n{OBJECT}\n</tool_call>", "", [PARIS]),
    (
        hermes,
        f"Let me look.\n<tool_call>\n{OBJECT}\n</tool_call>\n<tool_call>{OBJECT}</tool_call>\n",
        "Let me look.\n",
        [PARIS, PARIS],
    ),
    (hermes, f"<tool_call>\n{OBJECT}", "", [PARIS]),
    (hermes, "<tool_call>{broken</tool_call>", "<tool_call>{broken</tool_call>", []),
    (hermes, "a <b> c <tool", "a <b> c <tool", []),
    (
        coder,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>",
        "",
        [("get_weather", {"city": "Paris", "days": 3})],
    ),
    (mistral, f"[TOOL_CALLS][{OBJECT}, {OBJECT}]", "", [PARIS, PARIS]),
    (mistral, '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', "", [PARIS]),
    (
        mistral,
        '[TOOL_CALLS]get_weather{"city": "Paris"}[TOOL_CALLS]get_weather{"city": "Rome"}',
        "",
        [PARIS, ("get_weather", {"city": "Rome"})],
    ),
    (mistral, "[TOOL_CALLS]nonsense", "[TOOL_CALLS]nonsense", []),
    (bare, OBJECT, "", [PARIS]),
    (bare, '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    (bare, f"Sure:\n```json\n{OBJECT}\n```\n", "Sure:\n", [PARIS]),
    (bare, f"{OBJECT}; {OBJECT}", "", [PARIS, PARIS]),
    (bare, f"First {OBJECT} and then rest", "First and then rest", [PARIS]),
    (
        bare,
        '{"type": "function", "function": {"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}}',
        "",
        [PARIS],
    ),
    (bare, '{"name": "unknown", "arguments": {}}', '{"name": "unknown", "arguments": {}}', []),
    (bare, 'Use {"a": {"b": 1}} or {} or {x}', 'Use {"a": {"b": 1}} or {} or {x}', []),
    (
        bare,
        '{"name": "get_weather", "arguments": {"city": "Pa',
        '{"name": "get_weather", "arguments": {"city": "Pa',
        [],
    ),
    (bare, "```python\nprint(1)\n```", "```python\nprint(1)\n```", []),
    (bare, "a < b ``c`` d", "a < b ``c`` d", []),
    (
        bare,
        '{"name": "get_weather", "arguments": {"city": "a}\\"{"}}',
        "",
        [("get_weather", {"city": 'a}"{'})],
    ),
]


@pytest.mark.parametrize(("parser", "text", "shown", "calls"), RECORDED)
def test_recorded_outputs_are_read_the_same_however_they_are_cut(
    parser: Callable[[], ToolParser], text: str, shown: str, calls: list[Any]
) -> None:
    whole = read(parser(), [text])
    assert whole[1] == calls
    assert whole[0].split() == shown.split()
    for cut in range(len(text) + 1):
        assert read(parser(), [text[:cut], text[cut:]])[1] == calls
    single = read(parser(), list(text))
    assert single == (single[0], calls)
    assert single[0].split() == shown.split()


@given(st.text('ab{}"<>`\n[]', max_size=40), st.sampled_from([hermes, coder, mistral, bare]))
def test_text_without_calls_comes_through_unchanged(text: str, parser: Callable[[], ToolParser]) -> None:
    assert read(parser(), list(text)) == (text, [])


def test_text_that_can_be_no_call_is_not_held_back() -> None:
    for parser in (hermes(), coder(), mistral(), bare()):
        assert parser.push("Hello there, ") == ["Hello there, "]
    assert bare().push('{"city": 1}') != []


HARMONY = (
    "<|channel|>analysis<|message|>I must look.<|end|><|start|>assistant"
    '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>'
)


def test_harmony_is_told_apart_at_every_cut() -> None:
    for cut in range(len(HARMONY) + 1):
        splitter = HarmonySplitter()
        parts: list[Part] = [*splitter.push(HARMONY[:cut]), *splitter.push(HARMONY[cut:]), *splitter.finish()]
        assert "".join(part.text for part in parts) == HARMONY
        assert "".join(part.text for part in parts if part.kind == "reasoning") == "I must look."
        assert not [part for part in parts if part.kind == "content"]
        assert [part.call for part in parts if part.call] == [Call("get_weather", '{"city": "Paris"}')]


def test_harmonys_final_channel_is_the_answer() -> None:
    splitter = HarmonySplitter()
    text = (
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>It is < 5 <b>."
    )
    parts = [part for character in text for part in splitter.push(character)] + splitter.finish()
    assert "".join(part.text for part in parts if part.kind == "content") == "It is < 5 <b>."


@pytest.mark.parametrize(
    ("template", "takes_tools", "family"),
    [
        (None, False, "json"),
        ("{{ messages }}", False, "json"),
        ("{{ tools }}<tool_call>", True, "hermes"),
        ("{{ tools }}<tool_call><function=", True, "qwen3_coder"),
        ("{{ tools }}[TOOL_CALLS]", True, "mistral"),
        ("{{ tools }}<|python_tag|>", True, "llama3_json"),
        ("<|channel|>{{ tools }}", True, "harmony"),
    ],
)
def test_the_family_is_told_by_the_template(template: str | None, takes_tools: bool, family: str) -> None:
    assert family_of(template, takes_tools=takes_tools) == family


def test_definitions_of_both_apis_are_the_same_tools() -> None:
    flat = {
        "type": "function",
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": SCHEMA,
    }
    nested = {"type": "function", "function": {key: value for key, value in flat.items() if key != "type"}}
    assert tools_of([flat], nested=False) == tools_of([nested], nested=True) == (WEATHER,)


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "web_search"}, "tools[0].type"),
        ({}, "tools[0].type"),
        ({"type": "function"}, "tools[0].name"),
        ({"type": "function", "name": "a b"}, "tools[0].name"),
        ({"type": "function", "name": "f", "parameters": []}, "tools[0].parameters"),
        ({"type": "function", "name": "f", "strict": "yes"}, "tools[0].strict"),
    ],
)
def test_bad_and_hosted_tools_are_refused(tool: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        tools_of([tool], nested=False)
    assert refused.value.param == param


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(RequestError, match="get_weather"):
        tools_of([{"type": "function", "name": "get_weather"}] * 2, nested=False)


def test_the_choice_is_read_in_the_shapes_of_both_apis() -> None:
    tools = (WEATHER,)
    assert choice_of(None, tools).mode == "auto"
    assert choice_of("none", tools).mode == "none"
    assert choice_of("required", tools).named is None
    for given_choice in (
        {"type": "function", "name": "get_weather"},
        {"type": "function", "function": {"name": "get_weather"}},
    ):
        assert (choice_of(given_choice, tools).mode, choice_of(given_choice, tools).named) == (
            "required",
            "get_weather",
        )
    for wrong in ("always", {"type": "function", "name": "other"}, {"type": "web_search"}):
        with pytest.raises(RequestError):
            choice_of(wrong, tools)
    with pytest.raises(RequestError):
        choice_of("required", ())


def test_the_block_joins_the_system_message_and_past_calls_become_text() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}],
        },
        {"role": "tool", "content": "2", "tool_call_id": "c"},
    ]
    ready = with_tool_block(with_plain_calls(messages), (WEATHER,))
    assert ready[0]["content"].startswith("Be brief.")
    assert '"get_weather"' in ready[0]["content"]
    assert json.loads(ready[1]["content"]) == {"name": "f", "arguments": {"x": 1}}
    assert [message["role"] for message in ready] == ["system", "assistant", "user"]


NAMESPACE = {
    "type": "namespace",
    "name": "files",
    "tools": [{"type": "function", "name": "read"}, {"type": "custom", "name": "patch"}],
}


def test_tools_of_a_namespace_are_functions_under_joined_names() -> None:
    (tool,) = tools_of([{**NAMESPACE, "tools": NAMESPACE["tools"][:1]}], nested=False)
    assert (tool.name, tool.namespace) == ("files__read", ("files", "read"))


def test_other_tools_are_refused_by_name_or_left_out() -> None:
    with pytest.raises(RequestError) as raised:
        tools_of([NAMESPACE], nested=False)
    assert raised.value.param == "tools[0].tools[1].type"
    given = [NAMESPACE, {"type": "web_search"}]
    assert [tool.name for tool in tools_of(given, nested=False, ignore_others=True)] == ["files__read"]
    with pytest.raises(RequestError):
        tools_of([{"type": 7}], nested=False, ignore_others=True)
