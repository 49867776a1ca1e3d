"""The way to bitsandbytes, with a stand-in for the library: which needs a CUDA device to be worth having."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from swarm.engine import kernels
from swarm.engine.nf4 import by_bitsandbytes

WEIGHT = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


def library(*, wrong: float = 1.0) -> SimpleNamespace:
    """Rounds to halves in place of four bits; keeps the codes as a column, as the library does."""

    def quantize_4bit(weight, quant_type):
        assert quant_type == "nf4"
        return (weight * 2).round().to(torch.int8).reshape(-1, 1), weight.shape

    def dequantize_4bit(packed, state):
        return packed.reshape(state).float() / 2

    def matmul_4bit(x, packed, quant_state, bias):
        return functional.linear(x, dequantize_4bit(packed.t(), quant_state) * wrong, bias)

    inside = SimpleNamespace(quantize_4bit=quantize_4bit, dequantize_4bit=dequantize_4bit)
    return SimpleNamespace(functional=inside, matmul_4bit=matmul_4bit)


def test_its_product_is_that_of_the_weights_it_holds(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", library())
    bias, x = torch.ones(8), torch.randn(1, 5, 64)
    kernel = by_bitsandbytes(WEIGHT, bias)
    assert kernel is not None
    assert kernels.same(kernel(x), functional.linear(x, (WEIGHT * 2).round() / 2, bias))


@pytest.mark.parametrize("found", [None, library(wrong=1.1), SimpleNamespace()])
def test_without_the_library_or_with_one_that_is_wrong_it_is_not_used(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", found)
    assert by_bitsandbytes(WEIGHT, None) is None
