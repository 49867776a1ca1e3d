from __future__ import annotations

import asyncio

import numpy as np
import pytest

from swarm.engine.core import _not_finite
from swarm.engine.jobs import EmbedJob, SampleJob, StepJob
from swarm.engine.params import SamplingParams
from swarm.engine.sampling import Sampler
from swarm.errors import BadTensorError, EngineError, KVFullError, ModelError
from swarm.types import LayerSpan

ALL = LayerSpan(0, 4)
HIDDEN = 32


def rows(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).standard_normal((count, HIDDEN)).astype(np.float32).tobytes()


def step(key: str, position: int, count: int, hidden: bytes, tag: int = 0, rows_back: str = "all") -> StepJob:
    return StepJob(key, position, count, hidden, "float32", rows_back, tag)


def values(payload: bytes) -> np.ndarray:
    return np.frombuffer(payload, np.float32).reshape(-1, HIDDEN)


async def test_rows_come_back_as_asked_for(driver):
    for tag, wanted in enumerate(("none", "last", "all")):
        driver.engine.open(wanted, driver.model, ALL, 16)
        found = (await driver.ask([step(wanted, 0, 3, rows(3), 0, wanted)]))[0]
        assert found.count == len(values(found.hidden)) == (0, 1, 3)[tag]


async def test_half_precision_rows_are_converted_on_the_way_in_and_out(driver):
    driver.engine.open("a", driver.model, ALL, 16)
    driver.engine.open("b", driver.model, ALL, 16)
    half = values(rows(2)).astype(np.float16)
    exact = half.astype(np.float32).tobytes()
    job = StepJob("a", 0, 2, half.tobytes(), "float16", "all", 0)
    first, second = await driver.ask([job, step("b", 0, 2, exact, 1)])
    wanted = values(second.hidden).astype(np.float16)
    np.testing.assert_allclose(
        np.frombuffer(first.hidden, np.float16).reshape(2, -1), wanted, atol=2e-3, rtol=2e-3
    )


@pytest.mark.parametrize(
    ("position", "count", "hidden", "dtype"),
    [
        (0, 2, rows(3), "float32"),
        (0, 3, rows(3)[:-1], "float32"),
        (0, 3, rows(3), "bfloat16"),
        (0, 3, rows(3), "int8"),
        (0, 0, b"", "float32"),
        (0, -1, rows(1), "float32"),
        (1, 1, rows(1), "float32"),
        (-1, 1, rows(1), "float32"),
        (0, 17, rows(17), "float32"),
    ],
)
async def test_a_step_of_the_wrong_size_or_place_fails_and_the_sequence_goes_on(
    driver, position, count, hidden, dtype
):
    driver.engine.open("a", driver.model, ALL, 16)
    bad = StepJob("a", position, count, hidden, dtype, "all", 0)
    assert isinstance((await driver.ask([bad]))[0].error, EngineError)
    assert (await driver.ask([step("a", 0, 2, rows(2))]))[0].error is None


async def test_nan_fails_its_own_sequence_only(driver):
    poisoned = values(rows(3)).copy()
    poisoned[1, 5] = np.nan
    for key in ("good", "bad", "alone"):
        driver.engine.open(key, driver.model, ALL, 16)
    alone = (await driver.ask([step("alone", 0, 3, rows(3, 1))]))[0]
    good, bad = await driver.ask([step("good", 0, 3, rows(3, 1)), step("bad", 0, 3, poisoned.tobytes(), 1)])
    assert isinstance(bad.error, BadTensorError)
    assert bad.error.received
    np.testing.assert_allclose(values(good.hidden), values(alone.hidden), atol=1e-5)
    again = (await driver.ask([step("bad", 0, 3, rows(3, 1))]))[0]
    np.testing.assert_allclose(values(again.hidden), values(alone.hidden), atol=1e-5)


def test_what_the_layers_themselves_make_infinite_is_nobody_elses_doing():
    assert not _not_finite(step("a", 0, 2, rows(2))).received


async def test_a_lower_position_replaces_what_was_there(driver):
    driver.engine.open("a", driver.model, ALL, 16)
    driver.engine.open("b", driver.model, ALL, 16)
    await driver.ask([step("a", 0, 4, rows(4, 2))])
    replaced = (await driver.ask([step("a", 2, 2, rows(2, 3))]))[0]
    both = rows(4, 2)[: 2 * HIDDEN * 4] + rows(2, 3)
    wanted = (await driver.ask([step("b", 0, 4, both)]))[0]
    np.testing.assert_allclose(values(replaced.hidden), values(wanted.hidden)[2:], atol=1e-5)


async def test_truncation_waits_for_the_steps_before_it(driver):
    driver.engine.open("a", driver.model, ALL, 16)
    driver.engine.submit(step("a", 0, 4, rows(4), 0))
    driver.engine.truncate("a", 1)
    refused = step("a", 4, 1, rows(1), 1)
    driver.engine.submit(refused)
    found = {}
    async for batch in driver.engine.results():
        found.update((result.tag, result) for result in batch)
        if len(found) == 2:
            break
    assert found[0].error is None
    assert isinstance(found[1].error, EngineError)


async def test_steps_of_an_unknown_or_closed_sequence_fail(driver):
    assert isinstance((await driver.ask([step("nobody", 0, 1, rows(1))]))[0].error, EngineError)
    driver.engine.open("a", driver.model, ALL, 16)
    driver.engine.close("a")
    driver.engine.close("a")
    assert isinstance((await driver.ask([step("a", 0, 1, rows(1))]))[0].error, EngineError)
    with pytest.raises(EngineError):
        driver.engine.grow("a", 20)


async def test_a_full_pool_refuses_and_closing_makes_room(driver):
    engine = driver.engine
    free = engine.free_kv_tokens(driver.model, ALL)
    engine.open("a", driver.model, ALL, free)
    assert engine.free_kv_tokens(driver.model, ALL) == 0
    with pytest.raises(KVFullError):
        engine.open("b", driver.model, ALL, 1)
    with pytest.raises(KVFullError):
        engine.grow("a", free + 1)
    engine.close("a")
    assert engine.free_kv_tokens(driver.model, ALL) == free
    assert engine.stats().kv_used_bytes == 0


async def test_part_of_a_span_costs_part_of_the_room(driver):
    part = LayerSpan(1, 2)
    assert driver.engine.free_kv_tokens(driver.model, part) == 4 * driver.engine.free_kv_tokens(
        driver.model, ALL
    )


async def test_a_sequence_grows_in_the_middle(driver):
    driver.engine.open("a", driver.model, ALL, 16)
    driver.engine.open("b", driver.model, ALL, 40)
    await driver.ask([step("a", 0, 16, rows(16, 4)), step("b", 0, 16, rows(16, 4), 1)])
    driver.engine.grow("a", 40)
    grown, wanted = await driver.ask([step("a", 16, 20, rows(20, 5)), step("b", 16, 20, rows(20, 5), 1)])
    np.testing.assert_allclose(values(grown.hidden), values(wanted.hidden), atol=1e-5)


async def test_spans_that_are_not_loaded_are_refused(driver, tiny_llama):
    with pytest.raises(ModelError):
        driver.engine.open("a", driver.model, LayerSpan(3, 5), 16)
    driver.engine.open("a", driver.model, ALL, 16)
    await driver.engine.unload_span(driver.model, ALL)
    assert isinstance((await driver.ask([step("a", 0, 1, rows(1))]))[0].error, EngineError)
    with pytest.raises(ModelError):
        driver.engine.open("b", driver.model, ALL, 16)


async def test_loading_measures_what_the_node_advertises(driver, tiny_llama):
    stage = await driver.engine.load_span(tiny_llama, LayerSpan(1, 3), "float32")
    ends = await driver.engine.load_ends(tiny_llama, "bfloat16")
    assert stage.kv_bytes_per_token == 2 * 2 * 2 * 8 * 4
    assert stage.seconds_per_layer > 0
    assert ends.head_seconds > 0
    assert stage.hidden_size == HIDDEN
    assert (driver.model, LayerSpan(1, 3)) in driver.engine.stats().spans


async def test_who_asks_and_is_cancelled_meanwhile_leaves_the_engine_running(driver):
    asked = [asyncio.create_task(driver.engine.measure_span(driver.model, ALL)) for _ in range(5)]
    await asyncio.sleep(0)
    for one in asked:
        one.cancel()
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended)
    assert await driver.engine.measure_span(driver.model, ALL) is not None


@pytest.mark.parametrize("tokens", [[], [-1], [96], [3, 1000]])
async def test_tokens_outside_the_vocabulary_are_refused(driver, tokens):
    assert isinstance(
        (await driver.ask([EmbedJob(driver.model, tokens, "float32", 0)]))[0].error, EngineError
    )


async def test_samples_of_several_answers_share_one_head_and_fail_alone(driver):
    poisoned = values(rows(1)).copy()
    poisoned[0, 0] = np.inf

    def job(tag: int, hidden: bytes, drafts: tuple[int, ...] = ()) -> SampleJob:
        sampler = Sampler(SamplingParams(temperature=0.0))
        return SampleJob(driver.model, sampler, hidden, "float32", drafts, tag)

    good, bad, short, drafted = await driver.ask(
        [job(0, rows(1)), job(1, poisoned.tobytes()), job(2, rows(1)[:-4]), job(3, rows(2), (95,))]
    )
    assert len(good.tokens) == 1
    assert isinstance(bad.error, EngineError)
    assert isinstance(short.error, BadTensorError)
    assert drafted.tokens[0] == good.tokens[0]
    embedded = (await driver.ask([EmbedJob(driver.model, list(good.tokens), "float32", 0)]))[0]
    assert good.next_hidden == embedded.hidden


async def test_results_end_when_the_engine_closes(driver):
    await driver.engine.aclose()
    assert [batch async for batch in driver.engine.results()] == []
