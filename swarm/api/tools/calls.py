"""A function call as a model makes it. Knows no format it is written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec


@dataclass(frozen=True, slots=True)
class Call:
    """``arguments`` is a JSON document, as clients expect it."""

    name: str
    arguments: str


class ToolParser(Protocol):
    """Reads text as it is generated; gives out text that is no call, and calls once they are whole."""

    def push(self, text: str) -> list[str | Call]: ...

    def finish(self) -> list[str | Call]:
        """The text has ended: what was held back is a call after all, or text."""


def call_of(value: object) -> Call | None:
    """Return the call that a decoded JSON object describes, in any of the usual spellings; else None."""
    if not isinstance(value, Mapping):
        return None
    inner: Mapping[str, Any] = value
    for wrapper in ("function", "tool_call", "function_call"):
        if isinstance(value.get(wrapper), Mapping):
            inner = value[wrapper]
            break
    name = inner.get("name")
    arguments: object = next((inner[key] for key in ("arguments", "parameters", "args") if key in inner), {})
    if not isinstance(name, str) or not name:
        return None
    return Call(name, _document(arguments)) if _is_object(arguments) else None


def decoded(text: str) -> object:
    """Return the JSON value of ``text``, or None when it is none (a malformed call is plain text)."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _is_object(arguments: object) -> bool:
    return isinstance(arguments, Mapping) or (
        isinstance(arguments, str) and isinstance(decoded(arguments), Mapping)
    )


def _document(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
