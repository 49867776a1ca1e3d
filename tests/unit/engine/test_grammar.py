"""Grammars: what they leave of the logits, with the tokenizer of the default model."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from swarm.engine.grammar import (
    GrammarMask,
    json_schema_grammar,
    lark_grammar,
    problem_of,
    regex_grammar,
)
from swarm.engine.params import Grammar, SamplingParams
from swarm.engine.sampling import Sampler
from swarm.errors import EngineError
from swarm.models.store import DEFAULT_MODEL, ModelStore
from swarm.models.tokenizer import ChatTokenizer

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome"]},
        "days": {"type": "integer", "minimum": 0, "maximum": 99},
        "sure": {"type": "boolean"},
    },
    "required": ["city", "days", "sure"],
    "additionalProperties": False,
}


class Words:
    """A byte-level tokenizer of a few words, in the shape of ChatTokenizer."""

    def __init__(self) -> None:
        import tokenizers

        words = [
            *map(chr, range(33, 127)),
            "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}",
            "<think>",
            "</think>",
            "<eos>",
        ]
        vocabulary = {word: at for at, word in enumerate(words)}
        self.tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
        self.tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.tokenizer.decoder = tokenizers.decoders.ByteLevel()
        self.tokenizer.add_special_tokens(["<eos>"])
        self.tokenizer.add_tokens(["<think>", "</think>"])
        self.size = len(words)
        self.stop_ids = frozenset({vocabulary["<eos>"]})
        self._words = words

    def id(self, word: str) -> int:
        return self._words.index(word)

    def token_bytes(self, token: int) -> bytes:
        return self._words[token].encode()


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


def generate(words: Words, grammar: Grammar, seed: int, first: tuple[str, ...] = ()) -> str:
    """Sample from random logits until the end; ``first`` are words the model insists on at its beginning."""
    tokenizer: Any = words
    mask = GrammarMask(tokenizer, grammar)
    sampler = Sampler(SamplingParams(seed=seed), mask=mask)
    random = torch.Generator().manual_seed(seed)
    text = ""
    for step in range(400):
        logits = torch.randn(words.size + 5, generator=random)
        if step < len(first):
            logits[words.id(first[step])] += 100
        token, _ = sampler.sample(logits)
        if token in words.stop_ids:
            return text
        text += words.token_bytes(token).decode()
    raise AssertionError(f"no end: {text}")


@pytest.mark.parametrize("seed", range(20))
def test_an_answer_under_a_schema_always_validates(words: Words, seed: int) -> None:
    answer = json.loads(generate(words, Grammar(json_schema_grammar(SCHEMA)), seed))
    assert list(answer) == ["city", "days", "sure"]
    assert answer["city"] in ("Paris", "Rome")
    assert 0 <= answer["days"] <= 99
    assert isinstance(answer["sure"], bool)


def test_lark_and_regex_hold_too(words: Words) -> None:
    assert generate(words, Grammar(lark_grammar('start: "yes" | "no"')), 1) in ("yes", "no")
    assert generate(words, Grammar(regex_grammar("[ab]{3}")), 2).strip("ab") == ""


def test_what_must_match_begins_behind_the_reasoning(words: Words) -> None:
    source = lark_grammar('start: "yes"')
    under_way = generate(words, Grammar(source, "open"), 1, ("h", "m", "</think>"))
    assert under_way == "hm</think>yes"
    begun = generate(words, Grammar(source, "optional"), 1, ("<think>", "h", "</think>"))
    assert begun == "<think>h</think>yes"
    assert generate(words, Grammar(source, "optional"), 1, ("y",)) == "yes"
    assert generate(words, Grammar(source, "none"), 1, ("<think>",)) == "yes"


def test_tokens_beyond_the_vocabulary_are_forbidden(words: Words) -> None:
    tokenizer: Any = words
    logits = torch.zeros(words.size + 5)
    GrammarMask(tokenizer, Grammar(lark_grammar('start: "y"'))).mask(logits)
    assert torch.isfinite(logits).nonzero().flatten().tolist() == [words.id("y")]


def test_a_token_that_the_grammar_forbids_is_an_error(words: Words) -> None:
    tokenizer: Any = words
    mask = GrammarMask(tokenizer, Grammar(lark_grammar('start: "y"')))
    with pytest.raises(EngineError):
        mask.accept(words.id("n"))


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (json_schema_grammar({"not": {"type": "string"}}), "not"),
        (json_schema_grammar({"type": "string", "pattern": "(?=x)"}), "look-around"),
        (lark_grammar("start: nothing"), "nothing"),
        (regex_grammar("(a"), "unclosed"),
    ],
)
def test_what_can_not_be_enforced_is_named(source: str, named: str) -> None:
    assert named in (problem_of(source) or "")
    assert problem_of(json_schema_grammar(SCHEMA)) is None


@pytest.mark.real_model
def test_the_default_models_tokenizer_writes_valid_json() -> None:
    tokenizer = ChatTokenizer.load(ModelStore().folder(DEFAULT_MODEL))
    mask = GrammarMask(tokenizer, Grammar(json_schema_grammar(SCHEMA)))
    sampler = Sampler(SamplingParams(seed=3), mask=mask)
    random = torch.Generator().manual_seed(3)
    tokens: list[int] = []
    while not tokens or tokens[-1] not in tokenizer.stop_ids:
        tokens.append(sampler.sample(torch.randn(tokenizer.vocab_size, generator=random))[0])
    assert set(json.loads(tokenizer.decode(tokens))) == {"city", "days", "sure"}
