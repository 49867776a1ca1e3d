"""Answers that begin with kept keys and values are those of answers that compute everything."""

from __future__ import annotations

import random

import pytest

from swarm.protocol.limits import PREFIX_BLOCK_TOKENS as BLOCK
from swarm.types import LayerSpan
from tests.support.answers import Answer
from tests.support.families import VOCABULARY

ROUTE = [LayerSpan(0, 2), LayerSpan(2, 3), LayerSpan(3, 6)]
FAMILIES = ["llama", "qwen3", "mistral", "gemma3_text", "gpt_oss", "granite"]


def prompt(length: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(2, VOCABULARY) for _ in range(length)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("forgetful_hop", [None, 1])
async def test_the_next_turn_of_a_conversation_gives_the_tokens_of_generate(
    family, forgetful_hop, tiny, drive
):
    model = tiny(family)
    driver = await drive(model.local, ROUTE)
    first = Answer(prompt(2 * BLOCK + 5), ROUTE, BLOCK, scope="key")
    await driver.run([first])
    turn = [*first.prompt, *first.accepted, *prompt(9, seed=1)]
    second = Answer(turn, ROUTE, 12, chunk=7, scope="key", forgetful_hop=forgetful_hop)
    await driver.run([second])
    assert second.hit_tokens == (0 if forgetful_hop is not None else 3 * BLOCK)
    assert second.accepted == model.greedy(turn, 12)[0]


@pytest.mark.parametrize("family", FAMILIES)
async def test_conversations_that_share_a_beginning_do_not_disturb_each_other(family, tiny, drive):
    model = tiny(family)
    driver = await drive(model.local, ROUTE)
    system = prompt(BLOCK + 3)
    await driver.run([Answer([*system, *prompt(4 * BLOCK, seed=9)], ROUTE, 4, scope="key")])
    answers = [
        Answer([*system, *prompt(5 + index, seed=index)], ROUTE, 10, scope="key", starts_at=index)
        for index in range(3)
    ]
    await driver.run(answers)
    assert all(answer.hit_tokens == BLOCK for answer in answers)
    for answer in answers:
        assert answer.accepted == model.greedy(answer.prompt, 10)[0]


async def test_keys_that_depend_on_the_sequences_length_are_not_shared(tiny, drive):
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    model = tiny("llama", rope_parameters=rope, max_position_embeddings=20)
    driver = await drive(model.local, ROUTE)
    await driver.run([Answer(prompt(2 * BLOCK), ROUTE, 4, scope="key")])
    again = Answer(prompt(2 * BLOCK), ROUTE, 10, scope="key")
    await driver.run([again])
    assert again.hit_tokens == 0
    assert again.accepted == model.greedy(again.prompt, 10)[0]


async def test_another_scope_shares_nothing(tiny, drive):
    model = tiny("llama")
    driver = await drive(model.local, ROUTE)
    shared = prompt(3 * BLOCK)
    for scope in ("one", "two"):
        answer = Answer(shared, ROUTE, 6, scope=scope)
        await driver.run([answer])
        assert answer.hit_tokens == 0
        assert answer.accepted == model.greedy(shared, 6)[0]
