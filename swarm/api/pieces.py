"""One choice's tokens turned into text that can be shown: reasoning, content, their log-probabilities.

Knows nothing of tasks, networks or HTTP.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from swarm.api.answers import TokenLogprobEntry, TopLogprob
from swarm.api.reasoning import Part, ReasoningSplitter
from swarm.api.stop import StopMatcher
from swarm.engine.jobs import TokenLogprob
from swarm.node.front import TokenEvent


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one kind, in the order the model wrote it. ``logprobs`` are of the tokens that end in it."""

    kind: Literal["reasoning", "content"]
    text: str
    logprobs: list[TokenLogprobEntry] = field(default_factory=list)


class TokenNames(Protocol):
    """What a tokenizer tells about single tokens."""

    def token_text(self, token: int) -> str: ...

    def token_bytes(self, token: int) -> bytes: ...


class ChoiceText:
    """Splits reasoning off, stops at stop strings, and keeps each token's log-probability with its text.

    ``names`` is given when the client asked for log-probabilities; their joined tokens are the content.
    """

    def __init__(
        self, stops: Sequence[str] = (), *, inside_reasoning: bool = False, names: TokenNames | None = None
    ) -> None:
        self._splitter = ReasoningSplitter(inside=inside_reasoning)
        self._stop = StopMatcher(stops)
        self._ledger = _Ledger(names) if names else None
        self.tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string was reached: what the model says from now on is not part of the answer."""
        return self._stop.stopped

    @property
    def reasoning_tokens(self) -> int:
        return self._splitter.reasoning_pushes

    def push(self, event: TokenEvent) -> list[Piece]:
        """Take a token, return what can be shown now."""
        if event.token >= 0:
            self.tokens += 1
        if self._ledger is not None:
            self._ledger.add(event)
        return self._show(self._splitter.push(event.text))

    def finish(self) -> list[Piece]:
        """Return what was held back, when the model has ended."""
        pieces = self._show(self._splitter.finish())
        rest = self._content(self._stop.finish())
        left = self._ledger.finish() if self._ledger is not None else []
        if rest or left:
            pieces.append(
                Piece("content", rest.text if rest else "", [*(rest.logprobs if rest else ()), *left])
            )
        return pieces

    def _show(self, parts: list[Part]) -> list[Piece]:
        pieces: list[Piece] = []
        for part in parts:
            if self._ledger is not None:
                self._ledger.classify(part)
            if part.kind == "reasoning":
                pieces.append(Piece("reasoning", part.text))
            elif part.kind == "content" and (piece := self._content(self._stop.push(part.text))):
                pieces.append(piece)
        return pieces

    def _content(self, text: str) -> Piece | None:
        if not text:
            return None
        return Piece("content", text, self._ledger.release(len(text)) if self._ledger is not None else [])


@dataclass(slots=True)
class _Spoken:
    """A token, and the characters of the text that are its."""

    logprob: TokenLogprob
    text: str
    whole: bool = True


class _Ledger:
    """Which token which character came from, from the raw text to the released content."""

    def __init__(self, names: TokenNames) -> None:
        self._names = names
        self._raw: deque[_Spoken] = deque()
        self._content: deque[_Spoken] = deque()
        self._released = 0

    def add(self, event: TokenEvent) -> None:
        if event.logprob is not None:
            self._raw.append(_Spoken(event.logprob, event.text))
        elif self._raw:
            self._raw[-1].text += event.text

    def classify(self, part: Part) -> None:
        """Take the next characters of the raw text: those of content stay, others are nobody's."""
        characters = len(part.text)
        while self._raw and characters > 0:
            spoken = self._raw[0]
            taken = min(characters, len(spoken.text))
            if part.kind == "content":
                self._content.append(
                    _Spoken(spoken.logprob, spoken.text[:taken], taken == len(spoken.text) and spoken.whole)
                )
            characters -= taken
            if taken == len(spoken.text):
                self._raw.popleft()
            else:
                spoken.text, spoken.whole = spoken.text[taken:], False

    def release(self, characters: int) -> list[TokenLogprobEntry]:
        """Return the tokens whose last character is among the next ``characters`` shown."""
        self._released += characters
        entries: list[TokenLogprobEntry] = []
        while self._content and len(self._content[0].text) <= self._released and self._released:
            spoken = self._content.popleft()
            self._released -= len(spoken.text)
            entries.append(self._entry(spoken))
        return entries

    def finish(self) -> list[TokenLogprobEntry]:
        """Return the token that a stop string cut in two, with the text that was shown of it."""
        if not self._released or not self._content:
            return []
        spoken = self._content.popleft()
        cut, self._released = self._released, 0
        return [self._entry(_Spoken(spoken.logprob, spoken.text[:cut], whole=False))]

    def _entry(self, spoken: _Spoken) -> TokenLogprobEntry:
        names = self._names
        exact = names.token_bytes(spoken.logprob.token) if spoken.whole else spoken.text.encode()
        return TokenLogprobEntry(
            token=spoken.text,
            logprob=spoken.logprob.logprob,
            bytes=list(exact),
            top_logprobs=[
                TopLogprob(names.token_text(token), logprob, list(names.token_bytes(token)))
                for token, logprob in spoken.logprob.top
            ],
        )
