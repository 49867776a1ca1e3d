"""Every family, split and batched, gives the tokens and log-probabilities of transformers' `generate`."""

from __future__ import annotations

import random

import pytest
import torch

from swarm.models.loader import FAMILIES
from swarm.types import LayerSpan
from tests.support.answers import Answer
from tests.support.families import LAYERS, SETTINGS, VOCABULARY

TOKENS = 14
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


def assert_same(answer: Answer, tokens: list[int], logprobs: torch.Tensor) -> None:
    assert answer.accepted == tokens
    for row, expected in zip(answer.logprobs, logprobs, strict=True):
        found = torch.empty(VOCABULARY)
        for token, value in row.top:
            found[token] = value
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_every_family_that_is_served_is_tested_here():
    assert set(SETTINGS) == set(FAMILIES)


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
            top_logprobs=VOCABULARY,
        )
        for index, prompt in enumerate(prompts())
    ]
    await driver.run(answers)
    for answer in answers:
        assert_same(answer, *model.greedy(answer.prompt, answer.tokens_wanted))


@pytest.mark.parametrize("family", sorted(SETTINGS))
async def test_rejected_tokens_leave_no_trace(family, tiny, drive):
    model = tiny(family)
    driver = await drive(model.local, HELD)
    answer = Answer(prompts()[3], ROUTES[2], TOKENS)
    other = Answer(prompts()[4], ROUTES[0], TOKENS)
    for each in (answer, other):
        each.open(driver.engine, driver.model)
    while len(answer.accepted) < 9:
        await driver.advance([answer, other])
    answer.rewind(driver.engine, 5)
    while not answer.done:
        await driver.advance([each for each in (answer, other) if not each.done])
    assert answer.accepted == model.greedy(answer.prompt, TOKENS)[0]


def test_the_routes_cover_every_layer_once():
    for route in ROUTES:
        assert [layer for span in route for layer in range(span.start, span.end)] == list(range(LAYERS))
