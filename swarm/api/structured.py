"""Structured output: what a request's format and tool choice demand of the text, as a grammar. Knows no framework."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from swarm.api.tools.use import ToolUse
from swarm.engine.grammar import json_schema_grammar, lark_grammar, problem_of, regex_grammar
from swarm.engine.params import Grammar
from swarm.errors import RequestError

_KINDS = ("text", "json_object", "json_schema", "grammar")


@dataclass(frozen=True, slots=True)
class Format:
    """``schema`` of a JSON answer, or ``source`` of a grammar; neither for plain text. ``param`` names the field."""

    param: str
    schema: Mapping[str, Any] | None = None
    source: str | None = None


def format_of(given: Mapping[str, Any] | None, param: str, *, nested: bool) -> Format:
    """Read ``response_format`` (``nested``: the schema is under ``json_schema``) or ``text.format``.

    ``{"type": "grammar", "syntax": "lark" | "regex", "definition": …}`` is an extension. Raises RequestError.
    """
    if given is None:
        return Format(param)
    match given.get("type"):
        case "text":
            return Format(param)
        case "json_object":
            return Format(param, schema={"type": "object"})
        case "json_schema":
            place = f"{param}.json_schema" if nested else param
            holder = given.get("json_schema") if nested else given
            schema = _field(holder, "schema", Mapping, "an object", place)
            return Format(f"{place}.schema", schema=schema)
        case "grammar":
            definition = _field(given, "definition", str, "a string", param)
            syntax = given.get("syntax")
            if syntax not in ("lark", "regex"):
                raise _invalid(f"{param}.syntax", syntax, ("lark", "regex"))
            source = lark_grammar(definition) if syntax == "lark" else regex_grammar(definition)
            return Format(f"{param}.definition", source=source)
        case other:
            raise _invalid(f"{param}.type", other, _KINDS)


async def grammar_of(
    form: Format, tools: ToolUse, reasoning: Literal["none", "optional", "open"]
) -> Grammar | None:
    """Return what the answer is held to, or None. Raises RequestError that names what can't be enforced."""
    forced = tools.active and tools.choice.mode == "required"
    if not forced and form.schema is None and form.source is None:
        return None
    param = "tools" if forced else form.param
    if form.source is not None and tools.active:
        raise RequestError("A grammar can't be combined with tools.", param=form.param, code="invalid_value")
    try:
        source = form.source or json_schema_grammar(_schema(form, tools, forced=forced))
    except ValueError as exc:
        raise _unenforceable(param, str(exc)) from exc
    if problem := await asyncio.to_thread(problem_of, source):
        raise _unenforceable(param, problem)
    return Grammar(source, reasoning)


def _schema(form: Format, tools: ToolUse, *, forced: bool) -> Mapping[str, Any]:
    """A forced call is one of the tools' calls; with a format and free choice, the answer is a call or the format."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.name},
                "arguments": tool.parameters or {"type": "object", "properties": {}},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools.tools
        if tools.active and tools.choice.named in (None, tool.name)
    ]
    if not forced and form.schema is not None:
        return {"anyOf": [form.schema, *calls]} if calls else form.schema
    return {"anyOf": calls} if len(calls) > 1 else calls[0]


def _field(holder: object, name: str, kind: type[Any], expected: str, param: str) -> Any:
    value = holder.get(name) if isinstance(holder, Mapping) else None
    if value is None:
        raise RequestError(
            f"Missing required parameter: '{param}.{name}'.",
            param=f"{param}.{name}",
            code="missing_required_parameter",
        )
    if not isinstance(value, kind):
        raise RequestError(
            f"Invalid type for '{param}.{name}': expected {expected}.",
            param=f"{param}.{name}",
            code="invalid_type",
        )
    return value


def _invalid(param: str, value: object, supported: tuple[str, ...]) -> RequestError:
    return RequestError(
        f"Invalid value: {str(value)[:50]!r}. Supported values are: {', '.join(map(repr, supported))}.",
        param=param,
        code="invalid_value",
    )


def _unenforceable(param: str, problem: str) -> RequestError:
    return RequestError(
        f"Invalid schema for '{param}': this server can't enforce it: {problem[:500]}",
        param=param,
        code="invalid_json_schema",
    )
