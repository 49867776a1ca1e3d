"""Parsers for calls between markers: hermes and qwen, qwen3_coder, mistral. Knows nothing of tokens or HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from swarm.api.tools.calls import Call, call_of, decoded

Read = Callable[[str], list[Call]]

_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?(?:</parameter>|(?=<parameter=)|\Z)", re.DOTALL)
_NAMED = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*(?:\[ARGS\])?\s*(\{.*)", re.DOTALL)


class MarkedParser:
    """Calls stand between ``opening`` and ``closing``; without ``closing`` they reach to the end of the text.

    What ``read`` finds no call in is given out as the text it was.
    """

    def __init__(self, opening: str, closing: str | None, read: Read) -> None:
        self._opening = opening
        self._closing = closing
        self._read = read
        self._held = ""
        self._inside = False
        self._after_call = False

    def push(self, text: str) -> list[str | Call]:
        self._held += text
        out: list[str | Call] = []
        while self._step(out):
            pass
        return out

    def finish(self) -> list[str | Call]:
        held, self._held = self._held, ""
        out: list[str | Call] = []
        if self._inside:
            self._inside = False
            self._close(held, out)
        elif held:
            self._text(held, out)
        return out

    def _step(self, out: list[str | Call]) -> bool:
        marker = self._closing if self._inside else self._opening
        if marker is None:
            return False
        at = self._held.find(marker)
        if at < 0:
            if not self._inside:
                shown = len(self._held) - _may_become(self._held, marker)
                self._text(self._held[:shown], out)
                self._held = self._held[shown:]
            return False
        before, self._held = self._held[:at], self._held[at + len(marker) :]
        if self._inside:
            self._close(before, out)
        else:
            self._text(before, out)
        self._inside = not self._inside
        return True

    def _close(self, body: str, out: list[str | Call]) -> None:
        calls = self._read(body)
        self._after_call = bool(calls)
        if calls:
            out.extend(calls)
        else:
            out.append(self._opening + body + (self._closing or ""))

    def _text(self, text: str, out: list[str | Call]) -> None:
        """Space between two calls, and after the last, is layout."""
        if self._after_call:
            text = text.lstrip()
            self._after_call = not text
        if text:
            out.append(text)


def hermes() -> MarkedParser:
    return MarkedParser("<tool_call>", "</tool_call>", _one_object)


def qwen3_coder(parameters: Mapping[str, Mapping[str, Any]]) -> MarkedParser:
    """``parameters`` are the JSON schemas by function: values are text there, their types come from the schema."""
    return MarkedParser("<tool_call>", "</tool_call>", lambda body: _functions(body, parameters))


def mistral() -> MarkedParser:
    return MarkedParser("[TOOL_CALLS]", None, _mistral_calls)


def _one_object(body: str) -> list[Call]:
    call = call_of(decoded(body.strip()))
    return [call] if call else []


def _functions(body: str, parameters: Mapping[str, Mapping[str, Any]]) -> list[Call]:
    calls: list[Call] = []
    for name, inner in _FUNCTION.findall(body):
        kinds = parameters.get(name, {}).get("properties", {})
        arguments = {key: _typed(value, kinds.get(key, {})) for key, value in _PARAMETER.findall(inner)}
        calls.append(Call(name, msgspec.json.encode(arguments).decode()))
    return calls


def _typed(text: str, schema: object) -> object:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind == "string" or kind is None:
        return text
    value = decoded(text.strip())
    return text if value is None and text.strip() != "null" else value


def _mistral_calls(body: str) -> list[Call]:
    value = decoded(body.strip())
    if isinstance(value, list):
        calls = [call_of(entry) for entry in value]
        return [call for call in calls if call] if all(calls) else []
    found: list[Call] = []
    for part in body.split("[TOOL_CALLS]"):
        match = _NAMED.fullmatch(part)
        if match is None or not isinstance(decoded(match[2].strip()), Mapping):
            return []
        found.append(Call(match[1], match[2].strip()))
    return found


def _may_become(text: str, marker: str) -> int:
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if marker.startswith(text[-length:]):
            return length
    return 0
