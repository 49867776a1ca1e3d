from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from swarm.engine import kernels

DTYPES = [torch.float32, torch.bfloat16]


def matrix(rows: int, columns: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("second_copy", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 4, 40])
def test_products_are_those_of_torch(rows, dtype, biased, second_copy, monkeypatch):
    monkeypatch.setattr(kernels, "tiles_are_as_fast", lambda _: True)
    weight = matrix(48, 32, dtype) * 0.1
    bias = matrix(1, 48, dtype, 1)[0] if biased else None
    x = matrix(rows, 32, dtype, 2)[None]
    with torch.inference_mode():
        found = kernels.product(weight, bias, second_copy)(x)
        assert kernels.same(found, functional.linear(x, weight, bias))


def test_what_other_processes_take_meanwhile_counts_for_no_kernel(monkeypatch):
    """Three nodes that load on two cores: a kernel's own time says what it takes, the wall's clock what they do."""
    wall, own = iter(range(0, 10_000, 7)), 0.0

    def kernel(seconds: float):
        def run(x):
            nonlocal own
            own += seconds
            return x

        return run

    x = torch.zeros(1)
    slow, fast = [kernel(0.5)] * 3, [kernel(0.25)] * 3
    assert kernels.best_seconds([slow, fast], x, lambda: own) == [1.5, 0.75]
    monkeypatch.setattr(kernels.time, "perf_counter", lambda: float(next(wall)))
    monkeypatch.setattr(kernels.time, "thread_time", lambda: own, raising=False)
    fine = type("Info", (), {"resolution": 1e-9})
    monkeypatch.setattr(kernels.time, "get_clock_info", lambda _: fine)
    assert kernels.own_clock()() == own
    coarse = type("Info", (), {"resolution": 1 / 64})
    monkeypatch.setattr(kernels.time, "get_clock_info", lambda _: coarse)
    assert kernels.own_clock() is kernels.time.perf_counter


def test_joined_products_stand_side_by_side():
    parts = [nn.Linear(16, 8), nn.Linear(16, 4, bias=False), nn.Linear(16, 12)]
    x = matrix(5, 16, torch.float32)[None]
    with torch.inference_mode():
        wanted = torch.cat([part(x) for part in parts], dim=-1)
        assert kernels.same(kernels.joined(parts)(x), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", [LlamaRMSNorm, Gemma3RMSNorm])
def test_norms_are_exactly_those_of_the_family(family, dtype):
    module = family(24)
    module.weight.data = matrix(1, 24, torch.float32)[0]
    module = module.to(dtype)
    x = matrix(6, 24, dtype, 3)[None] * 3
    with torch.inference_mode():
        assert torch.equal(kernels.norm(module)(x), module(x))


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch):
    monkeypatch.setattr(kernels, "_packed", lambda weight, bias: lambda x: functional.linear(x, weight * 1.1))
    weight = matrix(8, 16, torch.float32)
    x = matrix(1, 16, torch.float32, 1)
    assert torch.equal(kernels.product(weight, None)(x), functional.linear(x, weight))


def test_a_kernel_that_this_torch_lacks_is_not_used(monkeypatch):
    def missing(weight, bias):
        raise AttributeError("no such operator")

    monkeypatch.setattr(kernels, "_packed", missing)
    weight = matrix(8, 16, torch.float32)
    x = matrix(1, 16, torch.float32, 1)
    assert torch.equal(kernels.product(weight, None)(x), functional.linear(x, weight))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sameness_allows_rounding_and_nothing_else(dtype):
    values = matrix(3, 16, dtype)
    assert kernels.same(values, values.clone())
    assert not kernels.same(values, values * 1.05)
    assert not kernels.same(values, values[:2])
    assert not kernels.same(values, torch.full_like(values, float("nan")))
