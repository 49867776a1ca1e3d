"""Products with tiles of weights, and decode steps made of them, against torch's: any rows, teams, kinds of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from swarm.engine import kernels
from swarm.engine.attention import ATTENTION, Segment
from swarm.engine.quantized import quantised
from swarm.engine.stage import Stage
from swarm.models.loader import load_span
from swarm.types import LayerSpan
from tests.support.models import random_model

tiles = pytest.importorskip("swarm.engine.tiles")
from swarm.engine import team as teams  # noqa: E402
from swarm.engine import vectors  # noqa: E402

ROWS = [1, 2, 3, 4, 5, 8, 9, 12, 13, 16, 17, 20, 23, 28, 32]
SHAPES = [(16, 2), (80, 34), (160, 2600)]
"""Outputs and inputs: fewer tiles than a group, groups that don't come out even, more inputs than 32 bits add up."""


@pytest.fixture(params=[1, 3])
def team_size(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).bfloat16()


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("in_pairs", [True, False])
def test_products_are_torchs_for_any_rows_and_do_not_depend_on_the_others(
    shape, biased, in_pairs, team_size, monkeypatch
):
    if in_pairs and not vectors.MULTIPLIES_PAIRS:
        pytest.skip("this machine multiplies single numbers only")
    if not in_pairs:
        monkeypatch.setattr(vectors, "MULTIPLIES_PAIRS", False)
        monkeypatch.setattr(tiles, "OPERAND", torch.empty(0).numpy())
        monkeypatch.setattr(tiles, "MAX_ROWS", 32)
    weight, bias = matrix(*shape, 1), matrix(1, shape[0], 2)[0] if biased else None
    tiled = teams.Tiled(weight, bias)
    x = matrix(32, shape[1], 3)
    wanted = functional.linear(x.float(), weight.float(), None if bias is None else bias.float())
    alone = torch.stack([tiled.in_single(row[None])[0] for row in x])
    assert error(alone, wanted) < 1e-6
    for rows in ROWS:
        assert torch.equal(tiled.in_single(x[:rows]), alone[:rows]), rows


@pytest.mark.skipif(not vectors.MULTIPLIES_SHORTS, reason="this machine has no products of 16 bits")
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_with_codes_are_those_of_what_they_stand_for(shape, biased, team_size):
    codes, bias = quantised(matrix(*shape, 1), 8), matrix(1, shape[0], 2)[0] if biased else None
    tiled = teams.TiledCodes(codes.values, codes.scales, bias)
    assert torch.equal(tiled.codes(), codes.values)
    x = matrix(32, shape[1], 3)
    weight = codes.values.float() * codes.scales.float()[:, None]
    wanted = functional.linear(x.float(), weight, None if bias is None else bias.float())
    alone = torch.stack([tiled.in_single(row[None])[0] for row in x])
    assert error(alone, wanted) < 2e-4
    for rows in ROWS:
        assert torch.equal(tiled.in_single(x[:rows]), alone[:rows]), rows


@pytest.mark.skipif(not vectors.MULTIPLIES_SHORTS, reason="this machine has no products of 16 bits")
def test_the_largest_codes_and_rows_do_not_overflow():
    size = 4096
    codes = torch.full((16, size), 127, dtype=torch.int8)
    tiled = teams.TiledCodes(codes, torch.ones(16), None)
    assert torch.allclose(
        tiled.in_single(torch.full((1, size), -3.0)), torch.full((1, 16), -3.0 * 127 * size)
    )
    assert not tiled.in_single(torch.zeros(2, size)).any()


@pytest.mark.parametrize("made", ["weights", "codes"])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_row_that_is_no_numbers_stays_so_and_spoils_no_other(made, broken):
    weight = matrix(32, 64, 1)
    if made == "codes":
        if not vectors.MULTIPLIES_SHORTS:
            pytest.skip("this machine has no products of 16 bits")
        codes = quantised(weight, 8)
        tiled = teams.TiledCodes(codes.values, codes.scales, None)
    else:
        tiled = teams.Tiled(weight, None)
    x = matrix(3, 64, 2)
    fine = tiled.in_single(x)
    x[1, 5] = broken
    found = tiled.in_single(x)
    assert not found[1].isfinite().any()
    assert torch.equal(found[[0, 2]], fine[[0, 2]])


def test_weights_that_do_not_lie_in_tiles_are_refused():
    for weight in (matrix(24, 64, 1), matrix(32, 63, 1), matrix(32, 64, 1).float()):
        with pytest.raises(RuntimeError, match="no tiles"):
            teams.Tiled(weight, None)


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "qwen2"])
def test_steps_of_tiles_are_those_of_the_layers(family, quantize, team_size, tmp_path: Path, monkeypatch):
    if quantize == "int8" and not vectors.MULTIPLIES_SHORTS:
        pytest.skip("this machine has no products of 16 bits")
    monkeypatch.setattr(kernels, "tiles_are_as_fast", lambda _: True)
    changes = {"sliding_window": 8} if family == "mistral" else {}
    local = random_model(family, changes, tmp_path / family).local
    span = LayerSpan(0, local.spec.layers)
    with torch.inference_mode():
        exact = Stage(
            load_span(local.folder, span, "float32", attention=ATTENTION), span, torch.float32, "cpu"
        )
        exact._compiled = None
        base = load_span(local.folder, span, "bfloat16", attention=ATTENTION)
        stage = Stage(base, span, torch.bfloat16, "cpu", 1 << 30, quantize=quantize)
        fast = stage._compiled
        assert fast is not None
        assert fast._tiled.max_rows >= 4
        for part in (span, LayerSpan(1, span.end)):
            wanted, found, slow = (
                decoded(which, part, compiled)
                for which, compiled in ((exact, None), (stage, fast), (stage, None))
            )
            assert error(found, wanted) < 1.3 * error(slow, wanted)
            assert error(slow, wanted) < (0.1 if quantize == "none" else 0.3)


def decoded(stage: Stage, part: LayerSpan, compiled: object) -> torch.Tensor:
    """Decode a few tokens of three sequences behind prompts of their own, and return what came out."""
    kvs = [stage.new_kv(part, 60) for _ in range(3)]
    stage._compiled = None
    for kv, length in zip(kvs, (3, 21, 11), strict=True):
        prompt = matrix(length, stage.hidden_size, length).to(stage.dtype)
        stage.forward(part, prompt, segments_of([kv], [length]))
    stage._compiled = compiled  # type: ignore[assignment]
    outs = []
    for step, counts in enumerate(([1, 1, 1], [2, 1, 1], [1, 1, 1])):
        hidden = matrix(sum(counts), stage.hidden_size, 40 + step).to(stage.dtype)
        outs.append(stage.forward(part, hidden, segments_of(kvs, counts)).float())
    return torch.cat(outs)


def segments_of(kvs, counts: list[int]) -> list[Segment]:
    segments, start = [], 0
    for kv, count in zip(kvs, counts, strict=True):
        segments.append(Segment(start, count, kv.length, kv.append_views(count), kv.tokens))
        start += count
    return segments
