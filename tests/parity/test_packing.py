"""What a packed row must not mix: rotary choices, windows, sizes, and the numbers of other sessions."""

from __future__ import annotations

import random

import pytest

from swarm.types import LayerSpan
from tests.support.answers import Answer
from tests.support.families import VOCABULARY

ROUTE = [LayerSpan(0, 2), LayerSpan(2, 6)]
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
    "short_factor": [1.0 + 0.05 * i for i in range(8)],
    "long_factor": [2.0 + 0.4 * i for i in range(8)],
    "original_max_position_embeddings": 20,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


def prompt(length: int) -> list[int]:
    chance = random.Random(length)
    return [chance.randrange(2, VOCABULARY) for _ in range(length)]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 20, "sliding_window": None}),
        ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 20}),
    ],
)
async def test_a_session_beyond_the_original_context_does_not_change_its_neighbour(
    family, changes, tiny, drive
):
    model = tiny(family, **changes)
    driver = await drive(model.local, ROUTE)
    short, long = Answer(prompt(6), ROUTE, 10), Answer(prompt(40), ROUTE, 10)
    await driver.run([short, long])
    for answer in (short, long):
        assert answer.accepted == model.greedy(answer.prompt, answer.tokens_wanted)[0]


@pytest.mark.parametrize("length", [6, 12, 19, 20, 21])
async def test_a_session_that_outgrows_the_original_context_goes_on_as_in_transformers(length, tiny, drive):
    changes = {"rope_parameters": LONG, "original_max_position_embeddings": 20, "sliding_window": None}
    model = tiny("phi3", **changes)
    assert model.local.spec.switch_tokens == 20
    driver = await drive(model.local, ROUTE)
    answer = Answer(prompt(length), ROUTE, 20, switch_tokens=20)
    beside = Answer(prompt(5), ROUTE, 10, switch_tokens=20)
    await driver.run([answer, beside])
    assert answer.accepted == model.greedy(answer.prompt, 20)[0]
    assert beside.accepted == model.greedy(beside.prompt, 10)[0]


@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "gpt_oss"])
async def test_windows_hold_far_beyond_what_their_slabs_keep(family, tiny, drive, monkeypatch):
    monkeypatch.setattr("swarm.engine.kv_pool.WINDOW_SLACK", 12)
    model = tiny(family)
    driver = await drive(model.local, ROUTE)
    answers = [
        Answer(prompt(length), ROUTE, 30, chunk=chunk, starts_at=length)
        for length, chunk in ((4, 50), (60, 8), (90, 21), (75, 75))
    ]
    await driver.run(answers)
    for answer in answers:
        assert answer.accepted == model.greedy(answer.prompt, answer.tokens_wanted)[0]


async def test_many_sessions_share_their_steps(tiny, drive):
    model = tiny("qwen3")
    driver = await drive(model.local, ROUTE)
    answers = [Answer(prompt(3 + 2 * index), ROUTE, 12, starts_at=index % 3) for index in range(16)]
    await driver.run(answers)
    for answer in answers:
        assert answer.accepted == model.greedy(answer.prompt, answer.tokens_wanted)[0]
    assert max(answer.largest_batch for answer in answers) > max(len(answer.prompt) for answer in answers)
