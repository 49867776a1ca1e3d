"""Guesses at the next tokens, looked up in the text so far (prompt-lookup decoding). Pure; samples nothing.

After A. Saxena, "Prompt Lookup Decoding" (2023): what followed the last few tokens before is likely to follow them
again. Guesses cost rows in a step that is bound by the weights' way through memory, so they are nearly free while a
hop has few rows; they are switched off when they don't come true or the hops have others to serve.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LONGEST_MATCH = 3
SHORTEST_MATCH = 2
FEWEST_DRAFTS = 2
FREE_ROWS = 8
"""Up to about so many rows a step costs hardly more than one (docs/benchmarks.md)."""
WORTHWHILE_SHARE = 0.3
PAUSE_TOKENS = 48
MEMORY = 0.8
"""Weight of the past in the running share of guesses that came true."""


class Drafter:
    """Proposes drafts for one answer and learns how good they are."""

    def __init__(self, prompt: Sequence[int], most: int) -> None:
        """``most`` drafts are proposed at a time; 0 switches drafting off."""
        self._most = most
        self._tokens: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        self._length = min(FEWEST_DRAFTS, most)
        self._share = 1.0
        self._paused = 0
        self.proposed = 0
        self.accepted = 0
        if most:
            self.extend(prompt)

    def extend(self, tokens: Iterable[int]) -> None:
        """Take in accepted tokens, and remember where each run of tokens before them ended."""
        if not self._most:
            return
        for token in tokens:
            end = len(self._tokens)
            for size in range(SHORTEST_MATCH, LONGEST_MATCH + 1):
                if end >= size:
                    self._ends[tuple(self._tokens[end - size : end])] = end
            self._tokens.append(token)
            self._paused = max(0, self._paused - 1)

    def propose(self, *, rows_of_others: int, room: int) -> tuple[int, ...]:
        """Return drafts, or none. ``room`` is how many tokens the answer may still have after the next."""
        most = min(self._length, room, FREE_ROWS - 1 - rows_of_others)
        if most < 1 or self._paused:
            return ()
        for size in range(LONGEST_MATCH, SHORTEST_MATCH - 1, -1):
            if len(self._tokens) < size:
                continue
            end = self._ends.get(tuple(self._tokens[-size:]))
            if end is not None:
                # Past its end the text is guessed to go on repeating itself.
                period = len(self._tokens) - end
                return tuple(self._tokens[end + index % period] for index in range(most))
        return ()

    def judged(self, proposed: int, accepted: int) -> None:
        """Learn that ``accepted`` of ``proposed`` drafts came true."""
        self.proposed += proposed
        self.accepted += accepted
        self._share = MEMORY * self._share + (1 - MEMORY) * accepted / proposed
        if self._share < WORTHWHILE_SHARE:
            self._paused, self._share = PAUSE_TOKENS, 2 * WORTHWHILE_SHARE
        if accepted == proposed:
            self._length = min(2 * self._length, self._most)
        else:
            self._length = max(min(FEWEST_DRAFTS, self._most), accepted + 1)
