"""The default model in float32: any split of its layers gives the tokens of transformers' `generate`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from swarm.models.store import ModelStore
from swarm.types import LayerSpan
from tests.support.answers import Answer, Driver
from tests.support.models import Reference, running
from tests.support.swarm_process import MODEL

pytestmark = pytest.mark.real_model

TOKENS = 48
TEXTS = [
    "Hi",
    "The capital of France is",
    "def fibonacci(n):",
    "1, 2, 3, 5, 8,",
    "Once upon a time, in a village by the sea, there lived",
    "Q: What is the boiling point of water at sea level?\nA:",
    "Ein Hund und eine Katze gehen in eine Bar und",
    "The quick brown fox jumps over the lazy dog. " * 3,
    "List the planets of the solar system, and say one thing about each of them:\n1.",
    "In the beginning the Universe was created. This has made a lot of people very angry. " * 6,
]
HELD = [LayerSpan(0, 30), LayerSpan(0, 17), LayerSpan(11, 30)]
ROUTES = [
    [LayerSpan(0, 30)],
    [LayerSpan(0, 17), LayerSpan(17, 30)],
    [LayerSpan(0, 5), LayerSpan(5, 16), LayerSpan(16, 30)],
    [LayerSpan(0, 1), LayerSpan(1, 12), LayerSpan(12, 13), LayerSpan(13, 29), LayerSpan(29, 30)],
]


@pytest.fixture(scope="module")
def reference() -> Reference:
    local = ModelStore().find(MODEL)
    if local is None:
        raise RuntimeError(f"{MODEL} is not on disk; scripts/test obtains it")
    return Reference(local, AutoModelForCausalLM.from_pretrained(local.folder, dtype=torch.float32))


@pytest.fixture(scope="module")
def expected(reference: Reference) -> list[tuple[list[int], list[int]]]:
    """(prompt, greedy tokens) of every text, computed by `generate` in one padded batch."""
    tokenizer = AutoTokenizer.from_pretrained(reference.local.folder, padding_side="left")
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    rows = reference.whole.generate(**batch, max_new_tokens=TOKENS, do_sample=False, eos_token_id=-1)
    width = batch.input_ids.shape[1]
    return [
        (ids[mask.bool()].tolist(), row[width:].tolist())
        for ids, mask, row in zip(batch.input_ids, batch.attention_mask, rows, strict=True)
    ]


@pytest.fixture
async def driver(reference: Reference) -> AsyncIterator[Driver]:
    async with running(reference.local, HELD, "float32") as started:
        yield started


async def test_every_split_gives_the_tokens_of_generate(driver, expected):
    answers = [
        Answer(prompt, route, TOKENS, chunk=64, starts_at=3 * index + which)
        for which, route in enumerate(ROUTES)
        for index, (prompt, _) in enumerate(expected)
    ]
    await driver.run(answers)
    assert [answer.accepted for answer in answers] == [tokens for _, tokens in expected] * len(ROUTES)
    assert max(answer.largest_batch for answer in answers) > 64


async def test_an_answer_alone_is_the_answer_in_company(driver, expected):
    for (prompt, tokens), route in zip(expected[:4], ROUTES, strict=True):
        alone = Answer(prompt, route, 12)
        await driver.run([alone])
        assert alone.accepted == tokens[:12]
