"""Quantised spans against themselves: batched as alone, split as whole, whatever shape the family's layers have."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

import pytest
import torch

from swarm.config import EngineSettings
from swarm.engine.worker import Engine
from swarm.models.footprint import footprint_of
from swarm.models.manifest import layer_of
from swarm.models.quantization import held_tensor_bytes
from swarm.types import LayerSpan
from tests.support.answers import Answer, Driver
from tests.support.families import LAYERS, VOCABULARY

ALL = LayerSpan(0, LAYERS)
SPLIT = [LayerSpan(0, 2), LayerSpan(2, 5), LayerSpan(5, LAYERS)]
TOKENS = 7


@asynccontextmanager
async def running(local, spans, quantize):
    engine = Engine(EngineSettings(threads=1, kv_bytes=1 << 26), checks=local.folder.parent / "checks")
    engine.start()
    try:
        stages = [await engine.load_span(local, span, "float32", quantize) for span in spans]
        await engine.load_ends(local, "float32")
        yield Driver(engine, local.id), stages
    finally:
        await engine.aclose()


def prompt(length: int) -> list[int]:
    chance = random.Random(length)
    return [chance.randrange(2, VOCABULARY) for _ in range(length)]


@pytest.mark.parametrize(
    ("family", "quantize"),
    [
        ("llama", "int8"),
        ("llama", "int4"),
        ("qwen3", "int8"),
        ("gemma2", "int4"),
        ("phi3", "int8"),
        ("glm4", "int4"),
        ("qwen2_moe", "int8"),
        ("gpt_oss", "int8"),
        ("gemma4_text.moe", "int4"),
        ("qwen3_5_text", "int8"),
    ],
)
async def test_answers_of_quantised_spans_are_those_of_the_whole_alone(family, quantize, tiny):
    model = tiny(family)
    lengths = (3, 17, 30)
    alone = [Answer(prompt(length), [ALL], TOKENS) for length in lengths]
    async with running(model.local, [ALL], quantize) as (driver, _):
        for answer in alone:
            await driver.run([answer])
    mixed = [
        Answer(prompt(length), SPLIT, TOKENS, chunk=7, starts_at=index)
        for index, length in enumerate(lengths)
    ]
    async with running(model.local, SPLIT, quantize) as (driver, _):
        await driver.run(mixed)
    assert [answer.accepted for answer in mixed] == [answer.accepted for answer in alone]
    assert max(answer.largest_batch for answer in mixed) > 7


@pytest.mark.parametrize("family", ["llama", "qwen2_moe", "gpt_oss"])
async def test_fewer_bits_hold_fewer_bytes(family, tiny):
    sizes = []
    for quantize in ("none", "int8", "int4"):
        async with running(tiny(family).local, [ALL], quantize) as (_, stages):
            sizes.append(stages[0].weight_bytes)
    assert sizes[0] > 2.8 * sizes[1]
    assert sizes[1] > 1.25 * sizes[2]


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt_oss", "gemma4_text"])
@pytest.mark.parametrize("quantize", ["int8", "int4"])
async def test_what_a_span_will_hold_is_told_from_the_checkpoint_s_headers(family, quantize, tiny):
    local = tiny(family).local
    told = sum(
        held_tensor_bytes(name, tensor.shape, 4, quantize)
        for name, tensor in local.manifest.tensors.items()
        if layer_of(name) is not None
    )
    async with running(local, [ALL], quantize) as (_, stages):
        assert stages[0].weight_bytes <= told <= 1.1 * stages[0].weight_bytes


async def test_int8_stays_near_the_model_that_it_stands_for(tiny):
    model = tiny("llama")
    answer = Answer(prompt(20), SPLIT, 1, top_logprobs=5)
    async with running(model.local, SPLIT, "int8") as (driver, _):
        await driver.run([answer])
    wanted = torch.log_softmax(model.greedy(answer.prompt, 1)[1][0], dim=-1)
    for token, logprob in answer.logprobs[0].top:
        assert abs(logprob - float(wanted[token])) < 0.5


async def test_a_span_with_rotary_choices_of_its_own_is_quantised_too(tiny):
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    model = tiny("llama", rope_parameters=dynamic, max_position_embeddings=20)
    answers = [Answer(prompt(length), SPLIT, TOKENS) for length in (6, 40)]
    async with running(model.local, SPLIT, "int8") as (driver, stages):
        await driver.run(answers)
        assert all(len(answer.accepted) == TOKENS for answer in answers)
    async with running(model.local, SPLIT, "none") as (_, plain):
        assert sum(s.weight_bytes for s in stages) < sum(s.weight_bytes for s in plain)


@pytest.mark.parametrize("family", ["gemma4_text", "gemma4_text.dense", "qwen3_5_text", "mistral"])
async def test_memory_is_told_before_anything_is_loaded(family, tiny):
    local = tiny(family).local
    for quantize in ("none", "int8"):
        told = footprint_of(local.spec, local.manifest, "float32", quantize)
        async with running(local, [ALL], quantize) as (_, stages):
            assert told.kv(ALL, 1) == stages[0].kv_bytes_per_token
            assert stages[0].weight_bytes <= told.weights(ALL) <= 1.1 * stages[0].weight_bytes
