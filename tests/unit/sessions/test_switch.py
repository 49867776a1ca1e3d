"""Answers that outgrow the context up to which their family's keys are turned by one set of factors (longrope)."""

from __future__ import annotations

import pytest

from swarm.types import LayerSpan
from tests.unit.sessions.conftest import text_across

THREE = {"a": LayerSpan(0, 2), "b": LayerSpan(2, 4), "c": LayerSpan(4, 6)}
TWICE = {**THREE, "a2": LayerSpan(0, 2), "b2": LayerSpan(2, 4), "c2": LayerSpan(4, 6)}
PROMPT = tuple(range(300, 312))
TOKENS = 40


def asked(world, switch_tokens, *, seed=1, spans=THREE, vocabulary=1 << 16):
    run = world(seed, spans, vocabulary=vocabulary)
    run.switch_tokens = switch_tokens
    run.ask(PROMPT, TOKENS)
    return run


@pytest.mark.parametrize("switch_tokens", [1, 11, 12, 13, 20, 51, 52, 500])
@pytest.mark.parametrize("vocabulary", [3, 1 << 16])
def test_beyond_the_switch_all_is_computed_anew_and_no_token_is_lost(switch_tokens, vocabulary, world):
    run = asked(world, switch_tokens, vocabulary=vocabulary)
    run.run()
    assert run.error is None
    assert run.emitted == text_across(PROMPT, TOKENS, switch_tokens, vocabulary)
    assert run.core.recoveries == 0
    assert run.violations == []


@pytest.mark.parametrize("seed", range(12))
def test_a_hop_that_dies_around_the_switch_leaves_no_keys_of_the_other_kind(seed, world):
    run = asked(world, 24, seed=seed, spans=TWICE)
    run.at(0.15 + 0.08 * seed, lambda: run.kill(run.rng.choice(sorted(run.core.hop_nodes) or ["a"])))
    run.run()
    assert run.error is None
    assert run.emitted == text_across(PROMPT, TOKENS, 24)
