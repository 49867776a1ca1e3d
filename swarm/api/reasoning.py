"""Splits a leading ``<think>…</think>`` block off streamed text. Knows nothing of tokens or HTTP."""

from __future__ import annotations

from enum import Enum, auto
from typing import Literal, NamedTuple, Protocol

from swarm.api.tools.calls import Call

OPEN = "<think>"
CLOSE = "</think>"

Kind = Literal["reasoning", "content", "markup"]


class Part(NamedTuple):
    """A run of the model's text. ``markup`` (tags and the space around them) is shown to nobody."""

    kind: Kind
    text: str
    call: Call | None = None
    """The function call that ends with this part, in formats that tell calls apart like reasoning."""


class Splitter(Protocol):
    """Tells the kinds of text apart as it is generated; one push is one token."""

    reasoning_pushes: int
    """How many pushes were part of reasoning, its tags included."""

    def push(self, text: str) -> list[Part]: ...

    def finish(self) -> list[Part]: ...


class PlainText:
    """A splitter for text that is shown as it is."""

    reasoning_pushes = 0

    def push(self, text: str) -> list[Part]:
        return [Part("content", text)] if text else []

    def finish(self) -> list[Part]:
        return []


class _State(Enum):
    START = auto()
    REASONING = auto()
    CLOSED = auto()
    CONTENT = auto()


class ReasoningSplitter:
    """The joined texts of all parts are the joined texts pushed, so that tokens can be matched to parts.

    ``inside``: the prompt itself ended with ``<think>``. A block that never closes is reasoning to its end.
    """

    def __init__(self, *, inside: bool = False) -> None:
        self._inside = inside
        self._state = _State.START
        self._held = ""
        self._undecided = 0
        self.reasoning_pushes = 0

    def push(self, text: str) -> list[Part]:
        """Take text, return the parts that are decided; a tag cut across pushes is held until it is whole."""
        if self._state is _State.CONTENT:
            return [Part("content", text)] if text else []
        self._undecided += self._state in (_State.START, _State.REASONING)
        self._held += text
        parts: list[Part] = []
        while self._step(parts):
            pass
        if self._state in (_State.REASONING, _State.CLOSED) or (parts and parts[0].kind != "content"):
            self.reasoning_pushes += self._undecided
        if self._state is not _State.START:
            self._undecided = 0
        return parts

    def finish(self) -> list[Part]:
        """Return what was held back when the text ended."""
        held, self._held = self._held, ""
        if not held:
            return []
        if self._state is _State.START and not held.lstrip().startswith(OPEN) and not self._inside:
            return [Part("content", held)]
        shown = _decided(held) if self._state is _State.REASONING else 0
        return [part for part in (Part("reasoning", held[:shown]), Part("markup", held[shown:])) if part.text]

    def _step(self, parts: list[Part]) -> bool:
        """Move as far as the held text decides; whether there may be more to do."""
        match self._state:
            case _State.START:
                return self._start(parts)
            case _State.REASONING:
                return self._reason(parts)
            case _State.CLOSED:
                return self._skip_space(parts)
            case _State.CONTENT:
                self._take("content", len(self._held), parts)
                return False

    def _start(self, parts: list[Part]) -> bool:
        body = self._held.lstrip()
        if body.startswith(OPEN):
            after = self._held[len(self._held) - len(body) + len(OPEN) :]
            if not after.strip():
                return False
            self._take("markup", len(self._held) - len(after.lstrip()), parts)
            self._state = _State.REASONING
            return True
        if OPEN.startswith(body):
            return False
        if self._inside:
            self._take("markup", len(self._held) - len(body), parts)
        self._state = _State.REASONING if self._inside else _State.CONTENT
        return True

    def _reason(self, parts: list[Part]) -> bool:
        at = self._held.find(CLOSE)
        if at < 0:
            self._take("reasoning", _decided(self._held), parts)
            return False
        self._take("reasoning", len(self._held[:at].rstrip()), parts)
        self._take("markup", self._held.index(CLOSE) + len(CLOSE), parts)
        self._state = _State.CLOSED
        return True

    def _skip_space(self, parts: list[Part]) -> bool:
        self._take("markup", len(self._held) - len(self._held.lstrip()), parts)
        if self._held:
            self._state = _State.CONTENT
        return bool(self._held)

    def _take(self, kind: Kind, length: int, parts: list[Part]) -> None:
        if length:
            parts.append(Part(kind, self._held[:length]))
            self._held = self._held[length:]


def _decided(text: str) -> int:
    """Return how much of ``text`` can be neither the start of a closing tag nor space before one."""
    end = len(text)
    for length in range(min(len(CLOSE) - 1, len(text)), 0, -1):
        if CLOSE.startswith(text[-length:]):
            end -= length
            break
    return len(text[:end].rstrip())


def closes_reasoning(prompt: str) -> bool:
    """Whether a rendered prompt ends behind a block, as templates do that are told not to reason."""
    return prompt.rstrip().endswith(CLOSE)


def opens_reasoning(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a block, as templates that write ``<think>`` themselves do."""
    return prompt.rstrip().endswith(OPEN)
