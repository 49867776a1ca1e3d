"""Products with weights of 8 or 4 bits, beside those of kernels.py; activations keep the model's dtype.

Knows nothing of layers. Scales belong to weights alone, so rows of different sessions can't touch each other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from swarm.engine.experts import stacked_matrices
from swarm.engine.kernels import ByRows, InSingle, Kernel, Maker, checked, plain, product
from swarm.engine.nf4 import by_bitsandbytes
from swarm.engine.team import TiledCodes
from swarm.errors import EngineError
from swarm.models.quantization import GROUP, matrix_bytes
from swarm.types import QUANTIZATIONS

try:
    from swarm.engine import compiled
except ImportError:  # a platform that Numba has no build for
    compiled = None  # type: ignore[assignment]

_SHAPE_UNIT = 16
"""torch's kernels for codes read blocks of so many rows and columns, and crash on others instead of refusing them."""

_FEW_ROWS = {"int8": 2, "int4": 4}
"""Up to so many rows the kernels for codes are no slower than prepacked products with unpacked weights."""

_COMPILED_ROWS = 2
"""Up to so many rows the compiled product, bound by the codes' way through memory, is the fastest on one thread."""

_UNPACK_ROWS = 8
"""From so many rows on, unpacking int8 weights for one product is no slower than the kernel for codes."""

_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
"""Shares of the weights' range that are tried as the codes' range: what is clipped can cost less than it gains."""

_ROWS_AT_ONCE = 512
_MEASURED_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Codes:
    """A weight [out, in] as codes: code x scale, plus a zero for groups. Scales have the model's dtype."""

    values: torch.Tensor
    """int8 [out, in]; with 4 bits uint8 [out, in / 2], the even column of a pair in the lower half."""
    scales: torch.Tensor
    """[out]; with 4 bits [out, in / GROUP]."""
    zeros: torch.Tensor | None = None
    """What code 8 stands for, [out, in / GROUP]; None with 8 bits."""

    def dequantised(self) -> torch.Tensor:
        """Return the weight that these codes stand for, [out, in] in the scales' dtype."""
        if self.zeros is None:
            return self.values.to(self.scales.dtype).mul_(self.scales[:, None])
        grouped = self.integers().view(*self.scales.shape, GROUP)
        return torch.addcmul(self.zeros[..., None], grouped - 8, self.scales[..., None]).flatten(1)

    def integers(self) -> torch.Tensor:
        """Return the 4-bit codes, uint8-sized numbers 0..15 as int8 [out, in]."""
        pairs = torch.stack([self.values & 15, self.values >> 4], dim=-1)
        return pairs.flatten(1).to(torch.int8)


def maker(quantize: str, second_copy: bool) -> Maker:
    """Return how products are made with ``quantize``, one of QUANTIZATIONS. Raises EngineError for any other."""
    if quantize not in QUANTIZATIONS:
        raise EngineError(f"quantize {quantize!r} is none of {', '.join(QUANTIZATIONS)}")
    if quantize == "none":
        return partial(product, second_copy=second_copy)
    return partial(_quantized, bits=8 if quantize == "int8" else 4, second_copy=second_copy)


def held_bytes(root: nn.Module, quantize: str, experts: Sequence[Any] = ()) -> int:
    """Return the bytes of ``root``'s weights once it and ``experts`` are quantised, without second copies."""
    held = {id(p): p.nbytes for p in root.parameters()}
    if quantize != "none":
        for module in root.modules():
            if type(module) is nn.Linear:
                held[id(module.weight)] = matrix_bytes(
                    module.weight.shape, module.weight.dtype.itemsize, quantize
                )
        for module in experts:
            for stacked in stacked_matrices(module):
                count, first, second = stacked.shape
                shape = (second, first) if module.is_transposed else (first, second)
                held[id(stacked)] = count * matrix_bytes(shape, stacked.dtype.itemsize, quantize)
    return sum(held.values())


def quantised(weight: torch.Tensor, bits: int) -> Codes:
    """Return codes for ``weight`` [out, in]; with 4 bits its columns must be a multiple of GROUP."""
    encode = _eight_bits if bits == 8 else _four_bits
    parts = [encode(rows, weight.dtype) for rows in weight.split(_ROWS_AT_ONCE)]
    zeros = [part.zeros for part in parts if part.zeros is not None]
    return Codes(
        torch.cat([part.values for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat(zeros) if zeros else None,
    )


def _eight_bits(rows: torch.Tensor, dtype: torch.dtype) -> Codes:
    """One scale for each row, the one of a few with the smallest squared error."""
    exact = rows.float()
    largest = exact.abs().amax(1, keepdim=True)
    best_error = torch.full_like(largest, math.inf)
    best_scale = torch.ones_like(largest)
    for shrink in _SHRINKS:
        scale = _rounded(largest * (shrink / 127), dtype).clamp_min_(torch.finfo(dtype).tiny)
        found = (exact / scale).round_().clamp_(-127, 127).mul_(scale)
        error = found.sub_(exact).square_().sum(1, keepdim=True)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
    values = (exact / best_scale).round_().clamp_(-127, 127).to(torch.int8)
    return Codes(values, best_scale[:, 0].to(dtype))


def _four_bits(rows: torch.Tensor, dtype: torch.dtype) -> Codes:
    """A scale and a zero for each group: of several ranges, each refitted to its codes by least squares, the best."""
    exact = rows.float().view(rows.shape[0], -1, GROUP)
    low, high = exact.amin(2, keepdim=True), exact.amax(2, keepdim=True)
    middle, width = (low + high) / 2, high - low
    best_error = torch.full_like(low, math.inf)
    best_scale, best_zero = torch.ones_like(low), torch.zeros_like(low)
    for shrink in _SHRINKS:
        scale, zero = width * (shrink / 15), middle + width * (shrink / 30)
        for refit in (False, True):
            if refit:
                scale, zero = _least_squares(exact, _four_bit_codes(exact, scale, zero), scale)
            scale = _rounded(scale, dtype).clamp_min(torch.finfo(dtype).tiny)
            zero = _rounded(zero, dtype)
            found = _four_bit_codes(exact, scale, zero).mul_(scale).add_(zero)
            error = found.sub_(exact).square_().sum(2, keepdim=True)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scale = torch.where(better, scale, best_scale)
            best_zero = torch.where(better, zero, best_zero)
    codes = (_four_bit_codes(exact, best_scale, best_zero) + 8).to(torch.uint8).flatten(1)
    values = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return Codes(values, best_scale[..., 0].to(dtype), best_zero[..., 0].to(dtype))


def _four_bit_codes(exact: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Return -8..7 as float32; groups of one value have no scale, and all codes do for them."""
    return ((exact - zero) / scale.clamp_min(torch.finfo(torch.float32).tiny)).round_().clamp_(-8, 7)


def _least_squares(
    exact: torch.Tensor, codes: torch.Tensor, otherwise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scale and zero that fit ``codes`` best; groups of a single code keep their scale."""
    code_mean, mean = codes.mean(2, keepdim=True), exact.mean(2, keepdim=True)
    spread = codes - code_mean
    variance = spread.square().sum(2, keepdim=True)
    scale = torch.where(
        variance > 0, (spread * (exact - mean)).sum(2, keepdim=True) / variance.clamp_min(1e-6), otherwise
    )
    return scale, mean - scale * code_mean


def _rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round to what the kernels will read, before codes are chosen."""
    return values.to(dtype).float()


def _quantized(weight: torch.Tensor, bias: torch.Tensor | None, *, bits: int, second_copy: bool) -> Kernel:
    """Return x -> x @ dequantised.T + bias; weights whose columns don't make groups get 8 bits instead of 4.

    ``second_copy`` allows another copy of the weights, unpacked, for products of many rows.
    """
    if bits == 4 and weight.shape[1] % GROUP:
        bits = 8
    if bits == 4 and weight.is_cuda and (theirs := by_bitsandbytes(weight, bias)) is not None:
        return theirs
    codes = quantised(weight, bits)
    if bits == 8 and (in_tiles := _in_tiles(codes, bias, second_copy=second_copy)) is not None:
        return in_tiles
    native = _native_eight if bits == 8 else _native_four
    few: Kernel | None = None
    rest: Kernel
    unpacked: torch.Tensor | None = None
    if _has_native(weight) and native_is_faster(bits, weight.dtype):
        unpacked = codes.dequantised()
        few = checked(lambda _, b: native(codes, b), plain(unpacked, bias), unpacked, bias)
    if few is None:
        rest = _unpacking(codes, bias)
    elif second_copy and unpacked is not None:
        rest = ByRows(few, _FEW_ROWS[f"int{bits}"], product(unpacked, bias))
    else:
        # Unpacking 4 bits would need the codes in a second order: that memory is what they are meant to save.
        rest = few if bits == 4 else ByRows(few, _UNPACK_ROWS - 1, _unpacking(codes, bias))
    return rest if bits == 4 else _with_compiled(codes, bias, rest)


def _in_tiles(codes: Codes, bias: torch.Tensor | None, *, second_copy: bool) -> Kernel | None:
    """Return the product with codes in tiles, and for many rows one that unpacks them, or has; None: not here."""
    weight = codes.dequantised()
    tiled = checked(lambda _, b: TiledCodes(codes.values, codes.scales, b), plain(weight, bias), weight, bias)
    if not isinstance(tiled, TiledCodes):
        return None
    if second_copy:
        return ByRows(tiled, tiled.max_rows, product(weight, bias))
    scales = codes.scales

    def product_unpacking(x: torch.Tensor) -> torch.Tensor:
        out = functional.linear(x, tiled.codes().to(x.dtype)).mul_(scales)
        return out if bias is None else out.add_(bias)

    return ByRows(tiled, tiled.max_rows, product_unpacking)


class _OnOneThread(ByRows):
    """A kernel of one thread for few rows, where the caller has no more than that."""

    def best_for(self, rows: int) -> Kernel:
        return super().best_for(rows) if torch.get_num_threads() == 1 else self._many


def _with_compiled(codes: Codes, bias: torch.Tensor | None, rest: Kernel) -> Kernel:
    """Return ``rest``, but for the fewest rows a compiled product, if there is one here and it gives the same."""
    if compiled is None or codes.values.device.type != "cpu" or codes.scales.dtype == torch.float16:
        return rest
    outputs, inputs = codes.values.shape
    values, scales = codes.values.contiguous(), codes.scales.float()
    added = None if bias is None else bias.float()

    def product_compiled(x: torch.Tensor) -> torch.Tensor:
        rows = x.contiguous()
        out = torch.empty(*x.shape[:-1], outputs)
        shape = (out.numel() // outputs, outputs, inputs)
        compiled.product_of_codes(
            rows.data_ptr(), values.data_ptr(), scales.data_ptr(), out.data_ptr(), shape
        )
        return out if added is None else out.add_(added)

    weight = codes.dequantised()
    dtype = codes.scales.dtype
    few = checked(lambda *_: InSingle(product_compiled, dtype), plain(weight, bias), weight, bias)
    return rest if few is None else _OnOneThread(few, _COMPILED_ROWS, rest)


def _has_native(weight: torch.Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype != torch.float32  # torch computes these element by element
        and not any(size % _SHAPE_UNIT for size in weight.shape)
    )


def _native_eight(codes: Codes, bias: torch.Tensor | None) -> Kernel:
    run = torch.ops.aten._weight_int8pack_mm.default
    return _flat(lambda x: run(x, codes.values, codes.scales), bias)


def _native_four(codes: Codes, bias: torch.Tensor | None) -> Kernel:
    if codes.zeros is None:
        raise RuntimeError("these codes have 8 bits")
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.integers().int(), 1)
    both = torch.stack([codes.scales.T, codes.zeros.T], dim=-1).contiguous()
    run = torch.ops.aten._weight_int4pack_mm_for_cpu.default
    return _flat(lambda x: run(x, packed, GROUP, both), bias)


def _flat(run: Callable[[torch.Tensor], torch.Tensor], bias: torch.Tensor | None) -> Kernel:
    """Return ``run``, which knows contiguous matrices only, for [..., in], with a bias."""

    def product_with_codes(x: torch.Tensor) -> torch.Tensor:
        out = run(x.reshape(-1, x.shape[-1]).contiguous())
        if bias is not None:
            out.add_(bias)
        return out.view(*x.shape[:-1], -1)

    return product_with_codes


def _unpacking(codes: Codes, bias: torch.Tensor | None) -> Kernel:
    """Return the product that unpacks the weights each time: any device, dtype and shape."""
    if codes.zeros is not None:
        return lambda x: functional.linear(x, codes.dequantised(), bias)
    scales = codes.scales

    def product_scaled_after(x: torch.Tensor) -> torch.Tensor:
        out = functional.linear(x, codes.values.to(x.dtype)).mul_(scales)
        return out if bias is None else out.add_(bias)

    return product_scaled_after


@cache
def native_is_faster(bits: int, dtype: torch.dtype) -> bool:
    """Measure, once a process, whether one-row products from codes beat unpacking here."""
    codes = quantised(torch.ones(1024, 512, dtype=dtype), bits)
    x = torch.ones(1, 1, 512, dtype=dtype)
    best = []
    try:
        for kernel in ((_native_eight if bits == 8 else _native_four)(codes, None), _unpacking(codes, None)):
            seconds = []
            for _ in range(_MEASURED_ROUNDS):
                began = time.perf_counter()
                kernel(x)
                seconds.append(time.perf_counter() - began)
            best.append(min(seconds))
    except (RuntimeError, AttributeError):
        return False
    return best[0] < best[1]
