"""Streams of tokens become exactly the text that decoding them at once gives, and characters arrive whole."""

from __future__ import annotations

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from swarm.models.detokenizer import Detokenizer

SPECIAL = "<|end|>"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def _byte_level() -> tokenizers.Tokenizer:
    """Return a byte-level vocabulary of single bytes, a few words and one special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: number for number, char in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([SPECIAL])
    return tokenizer


def _byte_fallback() -> tokenizers.Tokenizer:
    """Return a vocabulary as Llama 2 has it: words, and <0xNN> for bytes; a first word loses its space."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁hello", "wor", "ld", "a", "b"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([SPECIAL])
    return tokenizer


BYTE_LEVEL = _byte_level()
BYTE_FALLBACK = _byte_fallback()


def _pieces(tokenizer: tokenizers.Tokenizer, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    stream = Detokenizer(tokenizer, prompt or [])
    return [*(stream.push(token) for token in ids), stream.flush()]


@given(st.lists(st.integers(0, BYTE_LEVEL.get_vocab_size() - 1)), st.lists(st.integers(0, 255), max_size=40))
def test_any_bytes_give_the_text_of_decoding_them_at_once(ids: list[int], prompt: list[int]) -> None:
    prompt = [*prompt, BYTE_LEVEL.encode(".").ids[0]]
    before = BYTE_LEVEL.decode(prompt, skip_special_tokens=True)
    assert before + "".join(_pieces(BYTE_LEVEL, ids, prompt)) == BYTE_LEVEL.decode(prompt + ids)


@given(st.text())
def test_any_text_comes_back_without_half_characters(text: str) -> None:
    pieces = _pieces(BYTE_LEVEL, BYTE_LEVEL.encode(text).ids)
    assert "".join(pieces) == text
    assert REPLACEMENT not in "".join(pieces) or REPLACEMENT in text
    assert pieces[-1].strip(REPLACEMENT) == ""


def _fallback_ids(piece: str) -> list[int]:
    """Return a piece's own id, or the ids of its bytes."""
    whole = BYTE_FALLBACK.token_to_id(piece)
    spelled = [BYTE_FALLBACK.token_to_id(f"<0x{byte:02X}>") for byte in piece.encode()]
    return spelled if whole is None else [whole]


@given(st.lists(st.sampled_from(["▁hello", "wor", "ld", "▁", "a", "é", "你", "🎉", "\n", SPECIAL])))
@example(["▁", "🎉"])
def test_byte_fallback_gives_the_text_of_decoding_it_at_once(pieces: list[str]) -> None:
    ids = [token for piece in pieces for token in _fallback_ids(piece)]
    assert "".join(_pieces(BYTE_FALLBACK, ids)) == BYTE_FALLBACK.decode(ids)


def test_special_tokens_inside_of_a_character_do_not_break_it() -> None:
    end = BYTE_LEVEL.token_to_id(SPECIAL)
    ids = [token for byte in BYTE_LEVEL.encode("🎉").ids for token in (byte, end, end, end)]
    assert "".join(_pieces(BYTE_LEVEL, ids)) == "🎉"


@given(st.lists(st.integers(0, BYTE_FALLBACK.get_vocab_size() - 1)))
def test_no_sequence_of_tokens_ends_a_stream_with_an_error(ids: list[int]) -> None:
    assert isinstance("".join(_pieces(BYTE_FALLBACK, ids)), str)


def test_a_broken_character_after_a_byte_that_was_given_out_does_not_end_the_stream() -> None:
    newline, half, plain = (BYTE_FALLBACK.token_to_id(t) for t in ("<0x0A>", "<0xE4>", "a"))
    pieces = _pieces(BYTE_FALLBACK, [newline, half, plain, plain])
    assert pieces[0] == "\n"
    assert "".join(pieces).endswith("aa")


def test_an_emoji_arrives_whole() -> None:
    ids = BYTE_LEVEL.encode("🎉!").ids
    assert _pieces(BYTE_LEVEL, ids) == ["", "", "", "🎉", "!", ""]


def test_half_a_character_at_the_end_is_flushed_once() -> None:
    stream = Detokenizer(BYTE_LEVEL)
    for token in BYTE_LEVEL.encode("é").ids[:1]:
        assert stream.push(token) == ""
    assert stream.flush() == REPLACEMENT
    assert stream.flush() == ""


def test_broken_bytes_are_not_held_back_for_ever() -> None:
    half = BYTE_LEVEL.encode("é").ids[0]
    stream = Detokenizer(BYTE_LEVEL)
    given_out = "".join(stream.push(half) for _ in range(50))
    assert len(given_out) > 40
    assert given_out + stream.flush() == REPLACEMENT * 50


def test_special_tokens_have_no_text() -> None:
    end = BYTE_LEVEL.token_to_id(SPECIAL)
    a, b = BYTE_LEVEL.encode("ab").ids
    assert _pieces(BYTE_LEVEL, [a, end, end, b, end]) == ["a", "", "", "b", "", ""]


@pytest.mark.parametrize("prompt_ends_with", ["a", SPECIAL])
def test_the_first_word_of_an_answer_keeps_its_space(prompt_ends_with: str) -> None:
    prompt = [BYTE_FALLBACK.token_to_id("a")] * 20 + [BYTE_FALLBACK.token_to_id(prompt_ends_with)] * 30
    hello = BYTE_FALLBACK.token_to_id("▁hello")
    assert "".join(_pieces(BYTE_FALLBACK, [hello, hello], prompt)) == " hello hello"
    assert "".join(_pieces(BYTE_FALLBACK, [hello, hello])) == "hello hello"
