"""Which rows of a prefill say what of the prompt's own tokens. Pure; knows no messages and no tensors."""

from __future__ import annotations

from collections.abc import Sequence


class PromptScoring:
    """Row i of a prefill is the model's opinion of token i + 1; chunks come in order, from the first token on."""

    def __init__(self, prompt: tuple[int, ...]) -> None:
        self._prompt = prompt
        self._next = 0
        self.scores: list[object] = []
        """What is known of the prompt's second token and on."""

    def restart(self) -> None:
        """The prompt is filled again, on another path."""
        self._next = 0

    def take(self, rows: int) -> tuple[int, tuple[int, ...]]:
        """Return the next chunk's start and the tokens its rows are compared with: one less behind the prompt."""
        start = self._next
        self._next += rows
        return start, self._prompt[start + 1 : start + 1 + rows]

    def keep(self, start: int, scores: Sequence[object]) -> None:
        """After a recovery the same comes again."""
        if start <= len(self.scores):
            self.scores[start : start + len(scores)] = scores
