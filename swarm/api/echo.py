"""The echoed prompt of a completion with its log-probabilities. Knows no tasks and no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarm.api.answers import CompletionLogprobs
from swarm.api.ledger import TokenNames
from swarm.engine.jobs import TokenLogprob


@dataclass(frozen=True, slots=True)
class Echo:
    """What a choice's text begins with, and the tokens it was made of."""

    text: str = ""
    tokens: tuple[int, ...] = ()

    def logprobs(self, names: TokenNames, scores: Sequence[TokenLogprob]) -> CompletionLogprobs:
        """Return the prompt's tokens with what is known of them: nothing of the first, as nothing precedes it."""
        return CompletionLogprobs(
            tokens=[names.token_text(token) for token in self.tokens],
            token_logprobs=[None, *(score.logprob for score in scores)],
            top_logprobs=[
                None,
                *({names.token_text(token): value for token, value in score.top} for score in scores),
            ],
            text_offset=self._offsets(names),
        )

    def _offsets(self, names: TokenNames) -> list[int]:
        """Return where each token begins, in characters; one that the text does not show takes no room in it."""
        text = self.text.encode()
        byte = character = 0
        offsets = []
        for token in self.tokens:
            offsets.append(character)
            spelled = names.token_bytes(token)
            if text.startswith(spelled, byte):
                byte += len(spelled)
                character += sum(value & 0xC0 != 0x80 for value in spelled)
        return offsets


def joined(first: CompletionLogprobs, then: CompletionLogprobs) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokens=[*first.tokens, *then.tokens],
        token_logprobs=[*first.token_logprobs, *then.token_logprobs],
        top_logprobs=[*first.top_logprobs, *then.top_logprobs],
        text_offset=[*first.text_offset, *then.text_offset],
    )
