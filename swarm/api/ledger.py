"""Which token which character came from, so that log-probabilities stay with the text they belong to.

Knows nothing of reasoning, tools or HTTP.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from swarm.api.answers import TokenLogprobEntry, TopLogprob
from swarm.api.reasoning import Part
from swarm.engine.jobs import TokenLogprob


class TokenNames(Protocol):
    """What a tokenizer tells about single tokens."""

    def token_text(self, token: int) -> str: ...

    def token_bytes(self, token: int) -> bytes: ...


@dataclass(slots=True)
class _Spoken:
    """A token, and the characters of the text that are its."""

    logprob: TokenLogprob
    text: str
    whole: bool = True


class Ledger:
    """Which token which character came from, from the raw text to the released content."""

    def __init__(self, names: TokenNames) -> None:
        self._names = names
        self._raw: deque[_Spoken] = deque()
        self._content: deque[_Spoken] = deque()
        self._released = 0

    def add(self, text: str, logprob: TokenLogprob | None) -> None:
        """Take a token; text without one is the tail of the last, an incomplete character."""
        if logprob is not None:
            self._raw.append(_Spoken(logprob, text))
        elif self._raw:
            self._raw[-1].text += text

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
