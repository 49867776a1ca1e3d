"""One choice's tokens turned into what can be shown: reasoning, content, calls, their log-probabilities.

Knows nothing of tasks, networks or HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from swarm.api.answers import TokenLogprobEntry
from swarm.api.ledger import Ledger, TokenNames
from swarm.api.reasoning import Part, ReasoningSplitter, Splitter
from swarm.api.stop import StopMatcher
from swarm.api.tools.calls import Call, ToolParser
from swarm.node.front import TokenEvent


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one kind, or a call, in the order the model wrote them. ``logprobs`` are of tokens that end here."""

    kind: Literal["reasoning", "content", "call"]
    text: str = ""
    logprobs: list[TokenLogprobEntry] = field(default_factory=list)
    call: Call | None = None


class ChoiceText:
    """Splits reasoning off, stops at stop strings, reads calls, and keeps log-probabilities with their text.

    ``markers`` are special tokens that the text lacks and the parsers need. Without ``tools`` the joined tokens
    of the log-probabilities are the content; a tool parser's tokens are all listed, those of calls too.
    """

    def __init__(
        self,
        names: TokenNames,
        *,
        splitter: Splitter | None = None,
        stops: Sequence[str] = (),
        tools: ToolParser | None = None,
        markers: Collection[str] = (),
        one_call: bool = False,
        logprobs: bool = False,
    ) -> None:
        self._names = names
        self._splitter = splitter or ReasoningSplitter()
        self._stop = StopMatcher(stops)
        self._tools = tools
        self._markers = markers
        self._one_call = one_call
        self._ledger = Ledger(names) if logprobs else None
        self._waiting: list[TokenLogprobEntry] = []
        self.tokens = 0
        self.calls = 0

    @property
    def stopped(self) -> bool:
        """Whether the answer has ended here, whatever the model would say from now on."""
        return self._stop.stopped or (self._one_call and self.calls > 0)

    @property
    def reasoning_tokens(self) -> int:
        return self._splitter.reasoning_pushes

    def push(self, event: TokenEvent) -> list[Piece]:
        """Take a token, return what can be shown now."""
        text = event.text
        if event.token >= 0:
            self.tokens += 1
            if self._markers and not text and (name := self._names.token_text(event.token)) in self._markers:
                text = name
        if self._ledger is not None:
            self._ledger.add(text, event.logprob)
        return self._show(self._splitter.push(text))

    def finish(self) -> list[Piece]:
        """Return what was held back, when the model has ended."""
        if self._one_call and self.calls:
            return []
        pieces = self._show(self._splitter.finish())
        pieces += self._content(self._stop.finish())
        if self._tools is not None:
            pieces += self._called(self._tools.finish())
        if self._ledger is not None:
            self._waiting += self._ledger.finish()
        if self._waiting:
            pieces.append(Piece("content", "", self._taken()))
        return pieces

    def _show(self, parts: list[Part]) -> list[Piece]:
        pieces: list[Piece] = []
        for part in parts:
            if self._ledger is not None:
                self._ledger.classify(part)
            if part.call is not None:
                pieces += self._called([part.call])
            elif part.kind == "reasoning":
                pieces.append(Piece("reasoning", part.text))
            elif part.kind == "content":
                pieces += self._content(self._stop.push(part.text))
        return pieces

    def _content(self, text: str) -> list[Piece]:
        if not text:
            return []
        if self._ledger is not None:
            self._waiting += self._ledger.release(len(text))
        if self._tools is None:
            return [Piece("content", text, self._taken())]
        return self._called(self._tools.push(text))

    def _called(self, found: list[str | Call]) -> list[Piece]:
        pieces: list[Piece] = []
        for item in found:
            if self._one_call and self.calls:
                break
            if isinstance(item, Call):
                self.calls += 1
                pieces.append(Piece("call", call=item))
            else:
                pieces.append(Piece("content", item, self._taken()))
        return pieces

    def _taken(self) -> list[TokenLogprobEntry]:
        taken, self._waiting = self._waiting, []
        return taken
