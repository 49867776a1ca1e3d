"""Matrix products and norms as fast as this machine has them, each compared with torch's own before it is used.

Knows nothing of models beyond their linear layers and norms. torch's plain products of few rows run at a third of
the memory's speed on CPUs; oneDNN's prepacked ones, inside torch but not public, at almost all of it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import psutil
import torch
from torch import nn
from torch.nn import functional

from swarm.engine.team import Tiled

log = logging.getLogger("swarm.engine")

Clock = Callable[[], float]

Kernel = Callable[[torch.Tensor], torch.Tensor]

Maker = Callable[[torch.Tensor, torch.Tensor | None], Kernel]
"""Makes x -> x @ weight.T + bias of a weight [out, in] and a bias, or none."""

_PACK_ROWS = 1
"""Batch hint of the packing: measured best for 1 to 8 rows, and no worse than plain products for hundreds."""

_MEASURED_COPIES = 12
_MEASURED_ROUNDS = 4
_FINE_SECONDS = 1e-5
_AS_FAST = 1.05
"""Tiles may take so many times as long for one product: steps made of them save the interpreter besides."""

_CHECK_ROWS = 3
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest difference allowed, as a share of the largest value: a few roundings of the dtype."""


class Linear(Protocol):
    """The part of nn.Linear that packing reads."""

    weight: torch.Tensor
    bias: torch.Tensor | None


def same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether two results of one computation differ by no more than rounding."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    allowed = _TOLERANCE[wanted.dtype] * max(float(wanted.abs().max()), 1e-6)
    return float((found.float() - wanted.float()).abs().max()) <= allowed


def product(weight: torch.Tensor, bias: torch.Tensor | None, second_copy: bool = False) -> Kernel:
    """Return x -> x @ weight.T + bias for a weight of [out, in], packed where that works.

    On a CPU the result keeps no reference to ``weight``, whose memory may be a mapped file's.

    ``second_copy`` allows another packed copy for products of few rows, where that is faster here.
    """
    if weight.device.type != "cpu":
        return plain(weight, bias)
    by_torch = plain(weight, bias)
    many = checked(_packed, by_torch, weight, bias) or plain(weight.clone(), bias)
    if not second_copy or not tiles_are_as_fast(weight.dtype):
        return many
    few = checked(Tiled, by_torch, weight, bias)
    return ByRows(few, few.max_rows, many) if isinstance(few, Tiled) else many


class InSingle:
    """A kernel of float32 rows, called with and giving those of the model's dtype."""

    def __init__(self, run: Kernel, dtype: torch.dtype) -> None:
        self.run = run
        self._dtype = dtype

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x.float()).to(self._dtype)


class ByRows:
    """One kernel for products of up to ``limit`` rows and another for those of more."""

    def __init__(self, few: Kernel, limit: int, many: Kernel) -> None:
        self._few = few
        self._limit = limit
        self._many = many

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.best_for(x.shape[-2])(x)

    def best_for(self, rows: int) -> Kernel:
        return self._few if rows <= self._limit else self._many


def best_for(kernel: Kernel, rows: int) -> tuple[Kernel, bool]:
    """Return what ``kernel`` does for that many rows, and whether it takes and gives float32 in any model."""
    while isinstance(kernel, ByRows):
        kernel = kernel.best_for(rows)
    return (kernel.run, True) if isinstance(kernel, InSingle) else (kernel, False)


def plain(weight: torch.Tensor, bias: torch.Tensor | None) -> Kernel:
    """Return the product as torch has it; it keeps ``weight``."""

    def product_by_torch(x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, weight, bias)

    return product_by_torch


def checked(
    make: Callable[[torch.Tensor, torch.Tensor | None], Kernel],
    wanted: Kernel,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> Kernel | None:
    """Return the kernel that ``make`` makes, or None where this torch or CPU has no such kernel that is right."""
    probe = torch.linspace(-1, 1, _CHECK_ROWS * weight.shape[1]).sin().view(_CHECK_ROWS, -1).to(weight.dtype)
    try:
        kernel = make(weight, bias)
        return kernel if same(kernel(probe), wanted(probe)) else None
    except (RuntimeError, AttributeError):
        return None


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Kernel:
    """Return the product with oneDNN's own copy of ``weight``; the caller drops the plain one."""
    copy = torch.ops.mkldnn._reorder_linear_weight(weight, _PACK_ROWS)
    run = torch.ops.mkldnn._linear_pointwise.default
    nothing: list[Any] = []

    def product_with_copy(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = run(x, copy, bias, "none", nothing, "")
        return out

    return product_with_copy


@cache
def tiles_are_as_fast(dtype: torch.dtype) -> bool:
    """Measure, once a process, one-row products over more weights than the caches hold."""
    weight = torch.full((2048, 1024), 0.5, dtype=dtype)
    try:
        sides = [[make(weight, None) for _ in range(_MEASURED_COPIES)] for make in (_packed, Tiled)]
    except (RuntimeError, AttributeError):
        return False
    x = torch.ones(1, 1, 1024, dtype=dtype)
    by_torch, by_tiles = best_seconds(sides, x, own_time)
    log.info("one-row products: %.2f ms by oneDNN, %.2f ms in tiles", by_torch * 1e3, by_tiles * 1e3)
    return by_tiles < by_torch * _AS_FAST


def own_clock() -> Clock:
    """Return the clock of the calling thread's own processor time, or the wall's where that is too coarse.

    Nodes that share a machine often load at once: by the wall's clock one in eight with three on two cores took tiles
    for four times as slow as they are, and computed without them from then on.
    """
    own: Clock | None = getattr(time, "thread_time", None)
    if own is None or time.get_clock_info("thread_time").resolution > _FINE_SECONDS:
        return time.perf_counter
    return own


own_time = own_clock()


def best_seconds(sides: Sequence[Sequence[Kernel]], x: torch.Tensor, clock: Clock) -> list[float]:
    """Return the least time that the kernels of each side took in a few rounds, in which the sides take turns."""
    best = [math.inf] * len(sides)
    for _ in range(_MEASURED_ROUNDS):
        for side, kernels in enumerate(sides):
            began = clock()
            for kernel in kernels:
                kernel(x)
            best[side] = min(best[side], clock() - began)
    return best


def measured_seconds_per_byte(dtype: str, device: str) -> float:
    """Return seconds_per_byte for a dtype's name, outside an engine: on as many threads as an engine takes."""
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    with torch.inference_mode():
        return seconds_per_byte(getattr(torch, dtype), device)


def seconds_per_byte(dtype: torch.dtype, device: str) -> float:
    """Measure one-row products over more weights than the caches hold; return the seconds for a byte of weight.

    It tells machines apart before they load anything; what a layer really takes is measured once it is loaded.
    """
    weight = torch.full((2048, 1024), 0.5, dtype=dtype, device=device)
    kernels = [product(weight.clone(), None) for _ in range(_MEASURED_COPIES)]
    x = torch.ones(1, 1, 1024, dtype=dtype, device=device)
    best = math.inf
    for _ in range(2 * _MEASURED_ROUNDS):  # the machine may be busy with something else for a while
        began = time.perf_counter()
        for kernel in kernels:
            last = kernel(x)
        last.tolist()  # a GPU's products are queued: their result is waited for
        best = min(best, time.perf_counter() - began)
    return best / (weight.nbytes * _MEASURED_COPIES)


def joined(linears: Sequence[Linear], make: Maker = product) -> Kernel:
    """Return one product that gives the results of ``linears`` side by side."""
    biases = [linear.bias for linear in linears]
    weight = linears[0].weight if len(linears) == 1 else torch.cat([linear.weight for linear in linears])
    bias = None
    if any(b is not None for b in biases):
        bias = torch.cat(
            [
                b if b is not None else linear.weight.new_zeros(linear.weight.shape[0])
                for b, linear in zip(biases, linears, strict=True)
            ]
        )
    return make(weight.detach(), _detached(bias))


def norm(module: nn.Module) -> Kernel:
    """Return the fastest way found to compute ``module``, a norm over the last dimension."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if weight is None or weight.dim() != 1 or not isinstance(eps, float):
        return module
    probe = torch.linspace(-3, 3, _CHECK_ROWS * weight.shape[0], device=weight.device).exp().sin().mul(2.5)
    probe = probe.view(_CHECK_ROWS, -1).to(weight.dtype)
    wanted = module(probe)
    for scaled_after in (False, True):
        kernel = RmsNorm(weight.detach().clone(), eps, scaled_after=scaled_after)
        if torch.equal(kernel(probe), wanted):
            return kernel
    return module


class RmsNorm:
    """x / rms(x) * scale, over the last dimension."""

    def __init__(self, scale: torch.Tensor, eps: float, *, scaled_after: bool) -> None:
        """Most families round to their dtype before they scale: ``scaled_after``. In float32 that is all the same."""
        self.scale = scale
        self.eps = eps
        self._shape = tuple(scale.shape)
        self._scaled_after = scaled_after

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._scaled_after:
            return functional.rms_norm(x, self._shape, None, self.eps).mul_(self.scale)
        return functional.rms_norm(x, self._shape, self.scale, self.eps)


class FastModule(nn.Module):
    """A kernel where transformers expects a module."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._kernel = kernel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._kernel(x)


def replace_modules(root: nn.Module, make: Maker = product) -> None:
    """Replace the linear layers below ``root`` by what ``make`` makes of each, and norms by faster ones."""
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                kernel = make(child.weight.detach(), _detached(child.bias))
                setattr(parent, name, FastModule(kernel))
            elif type(child).__name__.endswith("RMSNorm"):
                kernel = norm(child)
                if kernel is not child:
                    setattr(parent, name, FastModule(kernel))


def _detached(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().clone()
