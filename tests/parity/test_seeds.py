"""The default model in float32: a seed draws the same tokens over one, two and three hops."""

from __future__ import annotations

import pytest

from swarm.engine.params import SamplingParams
from swarm.engine.sampling import Sampler
from swarm.models.store import ModelStore
from swarm.models.tokenizer import ChatTokenizer
from swarm.types import LayerSpan
from tests.support.answers import Answer
from tests.support.models import running
from tests.support.swarm_process import MODEL

pytestmark = pytest.mark.real_model

HELD = [LayerSpan(0, 30), LayerSpan(0, 17), LayerSpan(11, 30)]
ROUTES = [
    [LayerSpan(0, 30)],
    [LayerSpan(0, 17), LayerSpan(17, 30)],
    [LayerSpan(0, 5), LayerSpan(5, 16), LayerSpan(16, 30)],
]


async def test_a_seed_draws_the_same_tokens_over_one_two_and_three_hops() -> None:
    local = ModelStore().find(MODEL)
    assert local is not None
    prompt = ChatTokenizer.load(local.folder).encode("Once upon a time", special=True)
    drawn: dict[int, list[list[int]]] = {}
    async with running(local, HELD, "float32") as driver:
        for seed in (1, 2):
            answers = [Answer(prompt, route, 24) for route in ROUTES]
            for answer in answers:
                answer.sampler = Sampler(SamplingParams(temperature=1.0, top_p=0.95, seed=seed))
            await driver.run(answers)
            drawn[seed] = [answer.accepted for answer in answers]
    for texts in drawn.values():
        assert texts[0] == texts[1] == texts[2]
    assert drawn[1][0] != drawn[2][0]
