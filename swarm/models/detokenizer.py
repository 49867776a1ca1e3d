"""Token ids become text as they are generated. Knows no model and no sequence but its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

_PROMPT_TOKENS = 16
_CHARACTER_TOKENS = 4
"""A character of UTF-8 has at most four bytes, so at most the last three tokens can hold a part of one."""
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Decodes one answer token by token; the joined pieces are what decoding all of it at once gives.

    The rule is that of ``tokenizers.decoders.DecodeStream`` (decode a short window with and without the new
    token, give out what was added, hold back an incomplete character). DecodeStream itself raises "Invalid
    prefix" when a byte-fallback vocabulary turns a given-out byte and a broken one into two replacement
    characters; a model may generate that, and it must not end the answer.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, prompt_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._window = self._context(prompt_ids)
        self._given = self._decode(self._window)
        self._context_length = len(self._window)
        """Tokens of the window whose text was given out."""
        self._held_tokens = 0
        """Tokens with text in the window that end in an incomplete character."""

    def push(self, token: int) -> str:
        """Return the text that ``token`` completes; empty for a special token and half a character."""
        self._window.append(token)
        text = self._decode(self._window)
        if not text.endswith(_INCOMPLETE):
            return self._give(text)
        self._held_tokens += bool(self._decode([token]))
        if self._held_tokens < _CHARACTER_TOKENS:
            return ""
        return self._give(
            text[:-1], held=1
        )  # what is broken further back stays broken; the last may still heal

    def flush(self) -> str:
        """Return the tail held back: an incomplete character, as a replacement character."""
        return self._give(self._decode(self._window))

    def _give(self, text: str, held: int = 0) -> str:
        piece = text[_common(self._given, text) :]
        self._held_tokens = 0
        if piece:
            # The next window starts with the tokens given out just now: decoders need their context.
            self._window = self._window[self._context_length :]
            self._context_length = len(self._window)
            given = self._decode(self._window)
            self._given = given[: len(given) - held]
        return piece

    def _context(self, prompt_ids: Sequence[int]) -> list[int]:
        """Return the last ids of the prompt, enough to have text: decoders treat a first word apart."""
        count = _PROMPT_TOKENS
        while count < len(prompt_ids) and not self._decode(prompt_ids[-count:]):
            count *= 2
        return list(prompt_ids[-count:])

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def _common(left: str, right: str) -> int:
    """Return the length of the common beginning."""
    if right.startswith(left):
        return len(left)
    return next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )
