"""The tokens of one answer, the only truth of it: prompt and accepted ones, what is guessed, and what ends it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.sessions.drafts import Drafter
from swarm.sessions.prefix import PrefixNames
from swarm.sessions.request import Request
from swarm.sessions.scoring import PromptScoring


class AnswerTokens:
    """Grows by ``accept`` only; knows no path."""

    def __init__(self, request: Request, names: PrefixNames | None, draft_tokens: int) -> None:
        """``names`` name the blocks of prompt and answer; without them no prefix is reused."""
        self._request = request
        self._names = None if request.score_prompt else names
        if self._names is not None:
            self._names.extend(request.prompt)
        self.accepted: list[int] = []
        self.drafter = Drafter(request.prompt, draft_tokens)
        self.drafts: tuple[int, ...] = ()
        """Guesses that are being checked."""
        self.scoring = PromptScoring(request.prompt) if request.score_prompt else None

    @property
    def total(self) -> int:
        return len(self._request.prompt) + len(self.accepted)

    @property
    def remaining(self) -> int:
        """How many tokens the answer may still have."""
        return self._request.limit - len(self.accepted)

    @property
    def to_score(self) -> PromptScoring | None:
        """None as soon as there is an answer: by then all of the prompt has been compared."""
        return None if self.accepted else self.scoring

    def between(self, start: int, end: int) -> Sequence[int]:
        prompt = self._request.prompt
        known = len(prompt)
        return [*prompt[start:end], *self.accepted[max(0, start - known) : max(0, end - known)]]

    def blocks(self) -> tuple[bytes, ...]:
        """Names of the blocks before the last token, whose row is always computed."""
        return self._names.covering(self.total - 1) if self._names is not None else ()

    def guess(self, rows_of_others: int) -> tuple[int, ...]:
        """Propose what may follow the last token; it counts as being checked from now on."""
        room = self.remaining - 1
        if self.total <= self._request.switch_tokens:
            room = min(
                room, self._request.switch_tokens - self.total
            )  # no guess is computed across the switch
        self.drafts = self.drafter.propose(rows_of_others=rows_of_others, room=room)
        return self.drafts

    def accept(self, tokens: Sequence[int]) -> tuple[int, str]:
        """Take sampled tokens; return how many count, and why the answer ends (empty: it goes on)."""
        if self.drafts:
            self.drafter.judged(len(self.drafts), len(tokens) - 1)
            self.drafts = ()
        reason = ""
        taken = 0
        for token in tokens:
            if token in self._request.stop_ids:
                reason = "stop"
                break
            self.accepted.append(token)
            taken += 1
            if self.remaining <= 0:
                reason = "length"
                break
        self.drafter.extend(tokens[:taken])
        if self._names is not None:
            self._names.extend(tokens[:taken])
        return taken, reason
