"""Decode steps through layers whose products are all of tiles: one compiled call each.

Belongs to the compute thread. ``tiles`` has the kernels, ``decode`` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from swarm.engine.fused import FusedLayer
from swarm.engine.kernels import Kernel, RmsNorm, best_for
from swarm.engine.team import Operands, Tiled, team

try:
    from swarm.engine import compiled, tiles
except ImportError:  # a platform that Numba has no build for
    compiled = tiles = None  # type: ignore[assignment]

LIKE: dict[torch.dtype, np.ndarray[Any, Any]] = {
    torch.float32: np.empty(0, np.float32),
    torch.bfloat16: np.empty(0, np.uint16),
}
"""How kernels are told a dtype; bfloat16 goes by its bits."""


@dataclass(slots=True)
class LayerConstants:
    """What a layer's kernels are told whatever the number of rows; the tensors are kept for their addresses."""

    norm_in: tuple[int, float]
    norm_mid: tuple[int, float]
    norm_heads: tuple[int, int]
    heads_eps: float
    scale: float
    rotates: bool
    tensors: list[torch.Tensor]


def constants_of(layer: FusedLayer) -> LayerConstants:
    tensors: list[torch.Tensor] = []

    def address(norm: Kernel) -> tuple[int, float]:
        plain = cast(RmsNorm, norm)
        tensors.append(plain.scale.float().contiguous())
        return tensors[-1].data_ptr(), plain.eps

    heads = [address(norm) for norm in layer.norm_heads] if layer.norm_heads is not None else [(0, 0.0)] * 2
    scale = layer.dim**-0.5 if layer.scores.scaling is None else float(layer.scores.scaling)
    return LayerConstants(
        address(layer.norm_in), address(layer.norm_mid), (heads[0][0], heads[1][0]), heads[0][1], scale,
        layer.rotates, tensors,
    )  # fmt: skip


@dataclass(slots=True)
class Reach:
    """What the rows of a step look at."""

    tables: Sequence[np.ndarray[Any, Any]]
    """For each slab of keys and values, what ``compiled.attend`` must know of each row."""
    rotation: tuple[int, int]
    """Addresses of cos and sin by position."""
    longest: int
    """Where the longest sequence ends."""


class TiledStep:
    """Steps of up to so many rows in one call, for layers whose products are all of tiles."""

    def __init__(
        self,
        layers: Sequence[FusedLayer],
        constants: Sequence[LayerConstants],
        hidden_size: int,
        dtype: torch.dtype,
    ) -> None:
        products = [[_tiled(kernel) for kernel in layer.products] for layer in layers]
        flat = [product for of in products for product in of]
        kinds = {type(product) for product in flat}
        self.max_rows = min(0 if p is None else p.max_rows for p in flat) if len(kinds) == 1 else 0
        self._shorts = any(product is not None and product.shorts for product in flat)
        self._products = products
        self._constants = constants
        self._hidden_size = hidden_size
        self._shape = layers[0]
        self._like = LIKE[dtype]
        self._work: dict[int, _TiledWork] = {}
        self._arguments: dict[tuple[tuple[int, tuple[int, int]], ...], tuple[Any, Any]] = {}
        self._scratch = np.empty((0, 0), np.float32)

    def run(
        self,
        hidden: torch.Tensor,
        out: torch.Tensor,
        numbers: Sequence[tuple[int, tuple[int, int]]],
        reach: Reach,
    ) -> None:
        """Fill ``out`` with what ``hidden`` [rows, hidden], at most ``max_rows``, becomes in the numbered layers."""
        rows, shape, together = len(hidden), self._shape, team()
        count = tiles.padded(rows)
        work = self._work.get(count)
        if work is None:
            work = self._work[count] = _TiledWork(count, shape, self._hidden_size, shorts=self._shorts)
        work.residual[:rows].copy_(hidden)
        size = compiled.scratch_size(shape.heads, shape.key_heads, shape.dim, reach.longest)
        if len(self._scratch) < together.size or self._scratch.shape[1] < size:
            self._scratch = np.empty((together.size, 2 * size), np.float32)
        sizes = (rows, count, self._hidden_size, shape.heads, shape.key_heads, shape.dim, shape.inner)
        layers, scales = self._of(tuple(numbers))
        together.run(
            tiles.step, layers, scales, sizes, np.stack(reach.tables), reach.rotation, work.addresses, work.operands,
            out.data_ptr(), self._like, work.like, work.written, LIKE[torch.float32], self._scratch,
        )  # fmt: skip

    def _of(self, numbers: tuple[tuple[int, tuple[int, int]], ...]) -> tuple[Any, Any]:
        """Return what ``tiles.step`` must know of the numbered layers, made once for each part of the span."""
        found = self._arguments.get(numbers)
        if found is None:
            layers = np.zeros((len(numbers), tiles.COLUMNS), np.int64)
            scales = np.zeros((len(numbers), 4))
            for row, (number, (slab, index)) in enumerate(numbers):
                constants, products = self._constants[number], self._products[number]
                addresses = [
                    address for product in products if product is not None for address in product.addresses
                ]
                layers[row, : tiles.QKV] = (
                    constants.norm_in[0],
                    constants.norm_mid[0],
                    *constants.norm_heads,
                )
                layers[row, tiles.QKV : tiles.ROTATES] = addresses
                layers[row, tiles.ROTATES :] = (int(constants.rotates), slab, index)
                scales[row] = (
                    constants.norm_in[1],
                    constants.norm_mid[1],
                    constants.heads_eps,
                    constants.scale,
                )
            found = self._arguments[numbers] = (layers, scales)
        return found


class _TiledWork:
    """What a step of so many rows writes on."""

    def __init__(self, count: int, layer: FusedLayer, hidden_size: int, *, shorts: bool) -> None:
        mixed = layer.heads * layer.dim
        operands = [Operands(count, size, shorts=shorts) for size in (hidden_size, mixed, layer.inner)]
        self.residual = torch.zeros(count, hidden_size)
        width = mixed + 2 * layer.key_heads * layer.dim
        results = [torch.zeros(count, size) for size in (width, hidden_size, 2 * layer.inner)]
        self.addresses = tuple(tensor.data_ptr() for tensor in (self.residual, *results))
        self.operands = tuple(of.addresses for of in operands)
        self.like = operands[0].like
        self.written = LIKE[operands[0].written.dtype]
        self._kept = (operands, results)


def _tiled(kernel: Kernel) -> Tiled | None:
    found, _ = best_for(kernel, 1)
    return found if isinstance(found, Tiled) else None
