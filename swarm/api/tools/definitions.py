"""Tools as requests define them, in the shapes of both APIs. Knows no template and no parser."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swarm.errors import RequestError

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """``parameters`` is a JSON schema of the arguments object; None takes no arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None
    namespace: tuple[str, str] | None = None
    """The namespace it was defined in and its name there; ``name`` joins both."""

    def for_template(self) -> dict[str, Any]:
        parameters = self.parameters or {"type": "object", "properties": {}}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": dict(parameters)},
        }


def tools_of(
    given: Sequence[Mapping[str, Any]] | None, *, nested: bool, ignore_others: bool = False
) -> tuple[FunctionTool, ...]:
    """Read ``tools``; ``nested`` is chat's shape, with the definition under ``function``.

    Tools of a namespace are functions like the others, under joined names. ``ignore_others`` leaves out what is
    no function instead of refusing it.

    Raises RequestError for hosted tools and for what is no definition.
    """
    given = given or ()
    if len(given) > MAX_TOOLS:
        raise RequestError(
            f"Invalid 'tools': array too long. Expected an array with maximum length {MAX_TOOLS}, "
            f"but got an array with length {len(given)} instead.",
            param="tools",
            code="array_above_max_length",
        )
    tools: list[FunctionTool] = []
    for at, entry in enumerate(given):
        kind, param = entry.get("type"), f"tools[{at}]"
        if kind == "namespace" and not nested:
            tools += _of_namespace(entry, param, ignore_others=ignore_others)
        elif kind == "function" or not (ignore_others and isinstance(kind, str)):
            tools.append(_tool(entry, param, nested=nested))
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"Two tools have the name {name!r}.", param="tools", code="invalid_value")
    return tuple(tools)


def joined_name(namespace: str | None, name: str) -> str:
    """Return the name a model knows a function by."""
    if namespace is None:
        return name
    return namespace + name if namespace.endswith("_") else f"{namespace}__{name}"


def _of_namespace(entry: Mapping[str, Any], param: str, *, ignore_others: bool) -> list[FunctionTool]:
    namespace = _name(entry.get("name"), f"{param}.name")
    inner = entry.get("tools")
    if not isinstance(inner, list) or not all(isinstance(each, Mapping) for each in inner):
        raise RequestError(
            f"Invalid type for '{param}.tools': expected an array of objects.",
            param=f"{param}.tools",
            code="invalid_type",
        )
    tools = []
    for at, each in enumerate(inner):
        if ignore_others and each.get("type") != "function" and isinstance(each.get("type"), str):
            continue
        tool = _tool(each, f"{param}.tools[{at}]", nested=False)
        joined = joined_name(namespace, tool.name)
        tools.append(replace(tool, name=joined, namespace=(namespace, tool.name)))
    return tools


def _tool(entry: Mapping[str, Any], param: str, *, nested: bool) -> FunctionTool:
    kind = entry.get("type")
    if kind != "function":
        raise RequestError(
            f"Invalid value: {str(kind)[:50]!r}. Only function tools are supported; hosted tools are not.",
            param=f"{param}.type",
            code="unsupported_tool" if isinstance(kind, str) else "invalid_value",
        )
    place = f"{param}.function" if nested else param
    body = entry.get("function") if nested else entry
    if not isinstance(body, Mapping):
        raise RequestError(
            f"Missing required parameter: '{place}'.", param=place, code="missing_required_parameter"
        )
    return FunctionTool(
        name=_name(body.get("name"), f"{place}.name"),
        description=_optional(body.get("description"), str, "a string", f"{place}.description") or "",
        parameters=_optional(body.get("parameters"), Mapping, "an object", f"{place}.parameters"),
        strict=_optional(body.get("strict"), bool, "a boolean", f"{place}.strict"),
    )


def _name(name: object, param: str) -> str:
    if name is None:
        raise RequestError(
            f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
        )
    if not isinstance(name, str) or not _NAME.match(name):
        raise RequestError(
            f"Invalid '{param}': a name is 1 to 64 letters, digits, '_', '-' or '.'.",
            param=param,
            code="invalid_value",
        )
    return name


def _optional(value: Any, kind: type[Any], expected: str, param: str) -> Any:
    if value is None or isinstance(value, kind):
        return value
    raise RequestError(f"Invalid type for '{param}': expected {expected}.", param=param, code="invalid_type")
