"""What a request says of its tools: which may, must or must not be called. Knows no template and no parser."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from swarm.api.tools.definitions import FunctionTool
from swarm.errors import RequestError


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """``named`` is set in mode ``required`` when only that function may be called."""

    mode: Literal["auto", "none", "required"] = "auto"
    named: str | None = None
    allowed: frozenset[str] | None = None
    """The tools that may be called; None: all."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request says of tools. ``parallel``: more than one call an answer is welcome."""

    tools: tuple[FunctionTool, ...] = ()
    choice: ToolChoice = ToolChoice()
    parallel: bool = True

    @property
    def active(self) -> bool:
        return bool(self.tools) and self.choice.mode != "none"


def tool_use(
    tools: Sequence[FunctionTool], choice: str | Mapping[str, Any] | None, *, parallel: bool
) -> ToolUse:
    """Join ``tools`` and ``tool_choice``; tools that may not be called are left out. Raises RequestError."""
    chosen = choice_of(choice, tools)
    allowed = chosen.allowed
    shown = tuple(tool for tool in tools if allowed is None or tool.name in allowed)
    return ToolUse(shown, chosen, parallel)


def choice_of(given: str | Mapping[str, Any] | None, tools: Sequence[FunctionTool]) -> ToolChoice:
    """Read ``tool_choice`` in the shapes of both APIs. Raises RequestError."""
    names = {tool.name for tool in tools}
    if given is None:
        return ToolChoice()
    if isinstance(given, str):
        return ToolChoice(_mode(given, names, "tool_choice"))
    if given.get("type") == "allowed_tools":
        return _allowed(given, names)
    return ToolChoice("required", named=_named(given, names))


def _mode(given: object, names: Collection[str], param: str) -> Literal["auto", "none", "required"]:
    match given:
        case "auto":
            return "auto"
        case "none":
            return "none"
        case "required" if names:
            return "required"
        case "required":
            raise _invalid("'tool_choice' is only allowed when 'tools' are specified.", param)
        case _:
            raise _invalid(
                f"Invalid value: {str(given)[:50]!r}. Supported values are: 'none', 'auto', and 'required'.",
                param,
            )


def _allowed(given: Mapping[str, Any], names: Collection[str]) -> ToolChoice:
    """Read ``allowed_tools``; chat has what it says one level deeper."""
    inner = given.get("allowed_tools", given)
    entries = inner.get("tools") if isinstance(inner, Mapping) else None
    if (
        not isinstance(entries, list)
        or not entries
        or not all(isinstance(entry, Mapping) for entry in entries)
    ):
        raise _invalid("Invalid 'tool_choice': allowed_tools needs a list of tools.", "tool_choice")
    allowed = frozenset(_named(entry, names) for entry in entries)
    mode = _mode(inner.get("mode", "auto"), names, "tool_choice.mode")
    return ToolChoice(
        mode, named=min(allowed) if mode == "required" and len(allowed) == 1 else None, allowed=allowed
    )


def _named(given: Mapping[str, Any], names: Collection[str]) -> str:
    inner = given.get("function", given)
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if given.get("type") != "function" or not isinstance(name, str):
        raise _invalid(
            "Invalid 'tool_choice': expected 'none', 'auto', 'required', a function's name, or allowed_tools.",
            "tool_choice",
        )
    if name not in names:
        raise _invalid(f"Tool choice {name[:64]!r} not found in 'tools' parameter.", "tool_choice")
    return name


def _invalid(message: str, param: str) -> RequestError:
    return RequestError(message, param=param, code="invalid_value")
