from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from swarm.engine import kernels, quantized
from swarm.engine.ends import Ends
from swarm.errors import EngineError
from swarm.models.ends import load_ends
from tests.support.models import random_model

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MODES = ["int8", "int4"]
BITS = {"int8": 8, "int4": 4}


@pytest.fixture(autouse=True)
def native_kernels_where_they_exist(monkeypatch):
    monkeypatch.setattr(quantized, "native_is_faster", lambda *_: True)


def matrix(rows: int, columns: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.mark.parametrize("second_copy", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(48, 64), (160, 96), (13, 30), (40, 32)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_products_are_those_of_the_weights_that_the_codes_stand_for(mode, dtype, shape, biased, second_copy):
    weight = matrix(*shape, dtype) * 0.1
    bias = matrix(1, shape[0], dtype, 1)[0] if biased else None
    bits = 8 if shape[1] % quantized.GROUP else BITS[mode]
    with torch.inference_mode():
        wanted = quantized.quantised(weight, bits).dequantised()
        kernel = quantized.maker(mode, second_copy)(weight, bias)
        for rows in (1, 2, 3, 5, 8, 40):
            x = matrix(rows, shape[1], dtype, rows)[None]
            assert kernels.same(kernel(x), functional.linear(x, wanted, bias))


@pytest.mark.parametrize("mode", MODES)
def test_the_rows_of_a_float32_product_do_not_know_each_other(mode):
    kernel = quantized.maker(mode, second_copy=False)(matrix(48, 64, torch.float32), None)
    x = matrix(6, 64, torch.float32, 1)
    x[3] *= 1e4  # one activation scale for all rows would wipe out the others
    with torch.inference_mode():
        together = kernel(x[None])[0]
        for row, alone in enumerate(x):
            assert kernels.same(together[row], kernel(alone[None, None])[0, 0])


@pytest.mark.parametrize("mode", MODES)
def test_the_rows_of_a_bfloat16_product_do_not_know_each_other(mode):
    kernel = quantized.maker(mode, second_copy=False)(matrix(48, 64, torch.bfloat16), None)
    x = matrix(6, 64, torch.bfloat16, 1)
    x[3] *= 1e4
    with torch.inference_mode():
        together = kernel(x[None])[0]
        for row, alone in enumerate(x):
            assert kernels.same(together[row], kernel(alone[None, None])[0, 0])


@pytest.mark.parametrize(("mode", "most"), [("int8", 0.01), ("int4", 0.085)])
def test_codes_stay_near_the_weights(mode, most):
    weight = matrix(64, 256, torch.float32)
    assert relative_error(quantized.quantised(weight, BITS[mode]).dequantised(), weight) < most


def test_the_search_for_scales_beats_rounding_to_the_range_of_each_group():
    weight = matrix(64, 256, torch.float32)
    groups = weight.view(64, -1, quantized.GROUP)
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    scale = (high - low) / 15
    naive = (((groups - low) / scale).round() * scale + low).flatten(1)
    found = quantized.quantised(weight, 4).dequantised()
    assert relative_error(found, weight) < 0.97 * relative_error(naive, weight)


def test_weights_that_were_four_bit_codes_before_come_back():
    codes = torch.randint(0, 16, (32, 4, quantized.GROUP), generator=torch.Generator().manual_seed(0))
    codes[..., 0], codes[..., 1] = 0, 15
    weight = (codes * 0.25 - 1.5).flatten(1)
    assert torch.allclose(quantized.quantised(weight, 4).dequantised(), weight, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("value", [0.0, 0.5, -3.0])
def test_constant_weights_are_kept(value, bits, dtype):
    weight = torch.full((16, 64), value, dtype=dtype)
    found = quantized.quantised(weight, bits).dequantised()
    assert torch.allclose(found.float(), weight.float(), rtol=0.01)


@pytest.mark.parametrize("mode", MODES)
def test_a_kernel_that_computes_something_else_is_not_used(mode, monkeypatch):
    def wrong(codes, bias):
        return lambda x: functional.linear(x, codes.dequantised() * 1.1, bias)

    monkeypatch.setattr(quantized, "_native_eight", wrong)
    monkeypatch.setattr(quantized, "_native_four", wrong)
    weight, x = matrix(32, 64, torch.bfloat16), matrix(1, 64, torch.bfloat16, 1)
    with torch.inference_mode():
        wanted = functional.linear(x, quantized.quantised(weight, BITS[mode]).dequantised())
        assert kernels.same(quantized.maker(mode, second_copy=False)(weight, None)(x), wanted)


@pytest.mark.parametrize("mode", MODES)
def test_a_kernel_that_this_torch_lacks_is_not_used(mode, monkeypatch):
    def missing(codes, bias):
        raise AttributeError("no such operator")

    monkeypatch.setattr(quantized, "_native_eight", missing)
    monkeypatch.setattr(quantized, "_native_four", missing)
    weight, x = matrix(32, 64, torch.bfloat16), matrix(1, 64, torch.bfloat16, 1)
    with torch.inference_mode():
        wanted = functional.linear(x, quantized.quantised(weight, BITS[mode]).dequantised())
        assert kernels.same(quantized.maker(mode, second_copy=False)(weight, None)(x), wanted)


def test_only_linear_layers_count_as_quantised():
    module = nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.Linear(30, 8))
    others = 4 * (32 + 32 + 32 + 8)  # biases and the norm
    odd = 30 * 8 + 4 * 8  # no groups of 32: 8 bits
    assert quantized.held_bytes(module, "none") == others + 4 * (64 * 32 + 30 * 8)
    assert quantized.held_bytes(module, "int8") == others + 64 * 32 + 4 * 32 + odd
    assert quantized.held_bytes(module, "int4") == others + 64 * 32 // 2 + 2 * 4 * 64 + odd


def test_unknown_ways_to_quantise_are_refused():
    with pytest.raises(EngineError, match="int3"):
        quantized.maker("int3", second_copy=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_thread_multiplies_few_rows_by_codes_of_8_bits_in_a_compiled_product(dtype, monkeypatch):
    pytest.importorskip("swarm.engine.compiled")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(
        quantized, "_in_tiles", lambda *_, **__: None
    )  # as on machines that have none for codes
    bias = matrix(1, 48, dtype, 1)[0]
    kernel = quantized.maker("int8", second_copy=False)(matrix(48, 64, dtype), bias)
    codes = quantized.quantised(matrix(48, 64, dtype), 8)
    wanted = codes.values.float() * codes.scales.float()[:, None]
    for rows in (1, 2):
        run, in_single = kernels.best_for(kernel, rows)
        x = matrix(rows, 64, torch.float32, rows)
        assert in_single
        assert relative_error(run(x), functional.linear(x, wanted, bias.float())) < 1e-3
    assert not kernels.best_for(kernel, 3)[1]


def test_a_head_of_codes_is_the_same_by_whatever_kernel(tmp_path, monkeypatch):
    local = random_model("llama", {}, tmp_path / "llama").local
    hidden = matrix(2, local.spec.hidden_size, torch.bfloat16, 3)
    with torch.inference_mode():
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        found = Ends(load_ends(local.folder, "bfloat16"), torch.bfloat16, "cpu", quantize="int8").logits(
            hidden
        )
        monkeypatch.setattr(quantized, "_in_tiles", lambda *_, **__: None)
        other = Ends(load_ends(local.folder, "bfloat16"), torch.bfloat16, "cpu", quantize="int8").logits(
            hidden
        )
    assert found.dtype == other.dtype == torch.float32
    assert relative_error(other, found) < 2e-2
