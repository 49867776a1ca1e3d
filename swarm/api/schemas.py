"""Request bodies as msgspec structs, and the parsing of bytes into them. Knows no framework.

Every field may be null, which means absent; unknown fields are ignored; a wrong type is a RequestError whose
``param`` is the full path of the field.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from swarm.errors import RequestError

T = TypeVar("T")

_AT = re.compile(r" - at `\$\.?(?P<path>.*)`\Z", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a decimal number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


class ContentPart(msgspec.Struct):
    """A part of a message's content. Only parts with text can be answered; others are refused by name."""

    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(msgspec.Struct):
    name: str
    arguments: str = "{}"


class ToolCall(msgspec.Struct):
    function: CalledFunction
    id: str | None = None
    type: str | None = None


class Message(msgspec.Struct):
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class SwarmOptions(msgspec.Struct):
    """Extensions of this server; other servers ignore the object."""

    timeout: float | None = None
    trust: list[str] | None = None
    max_hops: int | None = None
    prefer: str | None = None
    route: bool | None = None
    """Say in ``usage`` which nodes computed the answer, and for how long."""


class GenerationFields(msgspec.Struct, kw_only=True):
    """What every generating endpoint takes."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    timeout: float | None = None
    swarm: SwarmOptions | None = None


class ChatBody(GenerationFields, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: list[Message]
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None


class CompletionBody(GenerationFields, kw_only=True):
    """The body of POST /v1/completions. ``prompt``: a string, strings, token ids, or lists of token ids."""

    prompt: Any
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None


def parse(raw: bytes, body: type[T]) -> T:
    """Read a JSON body. Raises RequestError that names the field and what it should be."""
    try:
        return msgspec.json.decode(raw, type=body)
    except msgspec.ValidationError as exc:
        raise _wrong_field(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RequestError(
            f"We could not parse the JSON body of your request: {exc}.", code="invalid_json"
        ) from exc


def _wrong_field(problem: str) -> RequestError:
    at = _AT.search(problem)
    path = at["path"].replace("[...]", "") if at else ""
    if missing := _MISSING.search(problem):
        name = f"{path}.{missing['name']}" if path else missing["name"]
        return RequestError(
            f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
        )
    expected = _EXPECTED.search(problem)
    if expected is None:
        reason = _AT.sub("", problem)
        return RequestError(
            f"Invalid value for '{path}': {reason}.", param=path or None, code="invalid_value"
        )
    if not path:
        return RequestError(
            f"The request body must be an object, not {_named(expected['got'])}.", code="invalid_type"
        )
    if expected["got"] == "null":
        return RequestError(
            f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter"
        )
    wanted = [_named(kind) for kind in expected["wanted"].split(" | ") if kind != "null"]
    one_of = f"one of {', '.join(wanted[:-1])} or {wanted[-1]}" if len(wanted) > 1 else wanted[0]
    return RequestError(
        f"Invalid type for '{path}': expected {one_of}, but got {_named(expected['got'])} instead.",
        param=path,
        code="invalid_type",
    )


def _named(kind: str) -> str:
    return _NAMES.get(kind, kind)
