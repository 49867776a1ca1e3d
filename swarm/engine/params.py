"""How a token is chosen, as plain values. Pure: the API builds them, the sampler reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must match. ``source`` is an llguidance grammar (engine.grammar makes and checks them)."""

    source: str
    reasoning: Literal["none", "optional", "open"] = "none"
    """Whether a ``<think>`` block comes before what must match: never, if the model begins one, or under way."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Applied in this order: penalties, logit_bias and grammar on raw logits (greedy too), then temperature ->
    min_p -> top_p -> top_k -> draw. Temperature 0 or top_k 1 is greedy.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    """Draws are keyed by (seed, choice, position of the token in the answer), so recovery can't shift them."""
    choice: int = 0
    top_logprobs: int | None = None
    """None: no logprobs at all; 0: only the sampled token's; n: the n most likely ones too."""
    banned_until: Mapping[int, int] = field(default_factory=dict)
    """Token id -> number of generated tokens before which it may not be chosen (min_tokens)."""
