"""Parser for calls written as bare JSON objects, in prose or a code fence. Knows nothing of tokens or HTTP.

It reads the specification's JSON block and llama3_json alike.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from swarm.api.tools.calls import Call, call_of, decoded

_OPENING = re.compile(r"<\|python_tag\|>|```[a-z]*\s*(?=\{)|\{")
_UNDECIDED = re.compile(r"(?:<\|?[a-z_]*\|?|`{1,2}|```[a-z]*\s*)\Z")
_FIRST_KEY = re.compile(r'\{\s*"((?:[^"\\]|\\.)*)"')
_STARTED_KEY = re.compile(r'\{\s*(?:"[^"\\]*)?\Z')
_CALL_KEYS = frozenset(
    {"name", "arguments", "parameters", "args", "type", "function", "tool_call", "function_call", "id"}
)
_LAYOUT = " \t\r\n;,`"


class BareJsonParser:
    """Holds an object back until it is whole; one that is no call of a known function is text like any other."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""
        self._prefix = ""
        """A fence or tag before the object that is being held."""
        self._scanner: _ObjectScanner | None = None
        self._after_call = False

    def push(self, text: str) -> list[str | Call]:
        self._held += text
        out: list[str | Call] = []
        while self._step(out):
            pass
        return out

    def finish(self) -> list[str | Call]:
        out: list[str | Call] = []
        self._text(self._prefix + self._held, out)
        self._held = self._prefix = ""
        return out

    def _step(self, out: list[str | Call]) -> bool:
        if self._scanner is None:
            return self._find(out)
        key = _FIRST_KEY.match(self._held)
        if (key and key[1] not in _CALL_KEYS) or (not key and not _STARTED_KEY.match(self._held)):
            return self._release(1, out)
        end = self._scanner.end(self._held)
        if end is None:
            return False
        call = call_of(decoded(self._held[:end]))
        if call is None or call.name not in self._names:
            return self._release(end, out)
        out.append(call)
        self._after_call = True
        self._held, self._prefix, self._scanner = self._held[end:], "", None
        return True

    def _find(self, out: list[str | Call]) -> bool:
        opening = _OPENING.search(self._held)
        if opening is None:
            undecided = _UNDECIDED.search(self._held)
            shown = undecided.start() if undecided else len(self._held)
            self._text(self._held[:shown], out)
            self._held = self._held[shown:]
            return False
        self._text(self._held[: opening.start()], out)
        if opening[0] == "{":
            self._held = self._held[opening.start() :]
        else:
            self._prefix = opening[0] if opening[0].startswith("`") else ""
            self._held = self._held[opening.end() :]
        if self._held.startswith("{"):
            self._scanner = _ObjectScanner()
        return bool(self._held)

    def _release(self, length: int, out: list[str | Call]) -> bool:
        self._text(self._prefix + self._held[:length], out)
        self._held, self._prefix, self._scanner = self._held[length:], "", None
        return bool(self._held)

    def _text(self, text: str, out: list[str | Call]) -> None:
        """Fences and separators after a call are layout."""
        if self._after_call:
            text = text.lstrip(_LAYOUT)
            self._after_call = not text
        if text:
            out.append(text)


class _ObjectScanner:
    """Finds where the object at the start of a growing text ends; looks at every character once."""

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def end(self, text: str) -> int | None:
        while self._at < len(text):
            character = text[self._at]
            self._at += 1
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return self._at
        return None
