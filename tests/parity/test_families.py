"""Every family, split and batched, gives the tokens and the logits of transformers' `generate`."""

from __future__ import annotations

import random

import pytest
import torch

from swarm.errors import EngineError
from swarm.types import LayerSpan
from tests.support.answers import Answer, Driver
from tests.support.families import KEEP_STATES, LAYERS, SETTINGS, VOCABULARY
from tests.support.models import Reference

TOKENS = 11
GO_BACK = ["llama", "mistral", "gemma3_text", "gemma4_text", "gpt_oss", "phi3", "qwen3_moe", "smollm3"]
"""Going back is the KV pool's business: one family for each way in which layers store or read keys."""
HELD = [LayerSpan(0, 6), LayerSpan(0, 4), LayerSpan(2, 6), LayerSpan(1, 2)]
ROUTES = [
    [LayerSpan(0, 6)],
    [LayerSpan(0, 1), LayerSpan(1, 6)],
    [LayerSpan(0, 3), LayerSpan(3, 4), LayerSpan(4, 6)],
    [LayerSpan(0, 1), LayerSpan(1, 2), LayerSpan(2, 3), LayerSpan(3, 5), LayerSpan(5, 6)],
]


def prompts() -> list[list[int]]:
    """Prompts shorter and longer than the sliding windows of tests/support/families.py."""
    chance = random.Random(7)
    return [[chance.randrange(2, VOCABULARY) for _ in range(length)] for length in (1, 3, 7, 12, 26, 41)]


def assert_same(answer: Answer, model: Reference) -> None:
    """Logits, and not only probabilities: these would hide what is added to all logits alike."""
    tokens, logits = model.greedy(answer.prompt, answer.tokens_wanted)
    assert answer.accepted == tokens
    torch.testing.assert_close(model.logits_of(answer.outputs), logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", sorted(SETTINGS))
async def test_answers_that_join_and_leave_at_any_time_are_those_of_generate(family, tiny, drive):
    model = tiny(family)
    driver = await drive(model.local, HELD)
    answers = [
        Answer(
            prompt,
            ROUTES[index % len(ROUTES)],
            TOKENS - index,
            chunk=(1 << 20, 5, 19)[index % 3],
            starts_at=5 * index,
        )
        for index, prompt in enumerate(prompts())
    ]
    await driver.run(answers)
    for answer in answers:
        assert_same(answer, model)


@pytest.mark.parametrize("family", GO_BACK)
async def test_rejected_tokens_leave_no_trace(family, tiny, drive):
    model = tiny(family)
    driver = await drive(model.local, HELD)
    answer = Answer(prompts()[3], ROUTES[2], TOKENS)
    other = Answer(prompts()[4], ROUTES[0], TOKENS)
    await until_seven_tokens(driver, answer, other)
    answer.rewind(driver.engine, 4)
    while not answer.done:
        await driver.advance([each for each in (answer, other) if not each.done])
    assert answer.accepted == model.greedy(answer.prompt, TOKENS)[0]


@pytest.mark.parametrize("family", sorted(KEEP_STATES))
async def test_states_can_not_go_back_but_begin_again(family, tiny, drive):
    model = tiny(family)
    driver = await drive(model.local, HELD)
    answer = Answer(prompts()[3], ROUTES[2], TOKENS)
    other = Answer(prompts()[4], ROUTES[0], TOKENS)
    await until_seven_tokens(driver, answer, other)
    with pytest.raises(EngineError, match="can't go back"):
        answer.rewind(driver.engine, 4)
    again = Answer(answer.prompt, ROUTES[2], TOKENS)
    again.open(driver.engine, driver.model)
    while not again.done:
        await driver.advance([again])
    assert again.accepted == model.greedy(again.prompt, TOKENS)[0]


async def until_seven_tokens(driver: Driver, answer: Answer, other: Answer) -> None:
    for each in (answer, other):
        each.open(driver.engine, driver.model)
    while len(answer.accepted) < 7:
        await driver.advance([answer, other])


def test_the_routes_cover_every_layer_once():
    for route in ROUTES:
        assert [layer for span in route for layer in range(span.start, span.end)] == list(range(LAYERS))
