"""Answers held to a grammar: compiled and checked here, and enforced on the logits by llguidance.

Knows nothing of requests; the API says which grammar, the sampler asks which tokens it leaves.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from swarm.engine.params import Grammar
from swarm.errors import EngineError

if TYPE_CHECKING:
    import torch

    from swarm.models.tokenizer import ChatTokenizer

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"

_vocabularies: weakref.WeakKeyDictionary[ChatTokenizer, LLTokenizer] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def json_schema_grammar(schema: Mapping[str, Any]) -> str:
    """Return the grammar of compact JSON documents that the schema allows. Check it before use."""
    # Free space between tokens would let a small model write blanks until its budget is spent.
    source: str = LLMatcher.grammar_from_json_schema(dict(schema), overrides={"whitespace_flexible": False})
    return source


def lark_grammar(text: str) -> str:
    source: str = LLMatcher.grammar_from_lark(text)
    return source


def regex_grammar(pattern: str) -> str:
    source: str = LLMatcher.grammar_from_regex(pattern)
    return source


def problem_of(source: str) -> str | None:
    """Return what is wrong with a grammar, such as a schema feature that can't be enforced; None when nothing is."""
    failed, problems = LLMatcher.validate_grammar_with_warnings(source)
    return (problems[0] if problems else "it is invalid") if failed else None


class GrammarMask:
    """Implements sampling.TokenMask for one answer. Build it off the event loop: large vocabularies take a second."""

    def __init__(self, tokenizer: ChatTokenizer, grammar: Grammar) -> None:
        self._tokenizer = tokenizer
        self._matcher = LLMatcher(_vocabulary(tokenizer), grammar.source)
        if self._matcher.is_error():
            raise EngineError(f"the grammar can't be used: {self._matcher.get_error()}")
        self._reasoning = grammar.reasoning == "open"
        self._tail = b""
        self._opener = (
            tokenizer.tokenizer.token_to_id(THINK_OPEN) if grammar.reasoning == "optional" else None
        )

    def mask(self, logits: torch.Tensor) -> None:
        """Forbid what the grammar does not allow next; nothing while the model still reasons."""
        import torch

        if self._reasoning:
            return
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = torch.zeros(logits.shape[0], dtype=torch.bool)
        known = torch.from_numpy(np.unpackbits(bits, bitorder="little").astype(bool))[: logits.shape[0]]
        allowed[: known.shape[0]] = known
        if self._opener is not None:
            allowed[self._opener] = True
        logits.masked_fill_(~allowed.to(logits.device), float("-inf"))

    def accept(self, token: int) -> None:
        """Advance. Raises EngineError for a token that the grammar forbids."""
        opens = token == self._opener
        self._opener = None
        if opens:
            self._reasoning = True
        elif self._reasoning:
            close = THINK_CLOSE.encode()
            self._tail = (self._tail + self._tokenizer.token_bytes(token))[-len(close) :]
            self._reasoning = self._tail != close
        elif not self._matcher.is_stopped() and not self._matcher.consume_token(token):
            raise EngineError(f"the grammar was left: {self._matcher.get_error()}")


def _vocabulary(tokenizer: ChatTokenizer) -> LLTokenizer:
    with _lock:
        known = _vocabularies.get(tokenizer)
        if known is None:
            known = LLTokenizer(tokenizer.tokenizer.to_str(), eos_token=sorted(tokenizer.stop_ids))
            _vocabularies[tokenizer] = known
        return known
