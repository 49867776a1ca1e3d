"""Threads that compute one product or one decode step together, and products made of tiles of weights."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

try:
    from swarm.engine import tiles, vectors
except ImportError:  # a platform that Numba has no build for
    tiles = vectors = None  # type: ignore[assignment]

_ALIGNED = 64
"""Tiles begin at multiples of so many bytes: one line of a cache, one register."""


class Team:
    """The calling thread and helpers that wait for its calls; the helpers end with the object."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._memory = np.zeros(vectors.BARRIER_BYTES // 8 + _ALIGNED // 8, np.int64)
        address = self._memory.ctypes.data
        self._barrier = address + -address % _ALIGNED
        self._calls: list[queue.SimpleQueue[tuple[Any, ...] | None]] = []
        for rank in range(1, size):
            calls: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
            threading.Thread(
                target=_help, args=(rank, calls), name=f"swarm-compute-{rank}", daemon=True
            ).start()
            self._calls.append(calls)

    def run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call ``function`` (rank, size, barrier, *arguments) once a thread; it must meet the others at its end."""
        for calls in self._calls:
            calls.put((function, self.size, self._barrier, *arguments))
        function(0, self.size, self._barrier, *arguments)

    def __del__(self) -> None:
        for calls in self._calls:
            calls.put(None)


def _help(rank: int, calls: queue.SimpleQueue[tuple[Any, ...] | None]) -> None:
    while (call := calls.get()) is not None:
        function, *arguments = call
        function(rank, *arguments)


_own = threading.local()


def team() -> Team:
    """Return the calling thread's team, as many as torch would take."""
    size = torch.get_num_threads()
    found: Team | None = getattr(_own, "team", None)
    if found is None or found.size != size:
        found = _own.team = Team(size)
    return found


class Tiled:
    """x -> x @ weight.T + bias for up to ``max_rows`` rows, with the weights in tiles (see ``tiles``)."""

    shorts = False
    """Whether weights are int8, and rows that meet them int16."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """``weight`` is bfloat16 [outputs, inputs]. Raises RuntimeError for weights that don't lie in tiles."""
        if tiles is None or weight.dtype != torch.bfloat16:
            raise RuntimeError("no tiles for weights of this dtype")
        self.max_rows: int = tiles.MAX_ROWS
        self._take(weight, None, bias)

    def _take(self, weight: torch.Tensor, scales: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        self.outputs, self.inputs = weight.shape
        if not lie_in_tiles(weight):
            raise RuntimeError("no tiles for weights of this shape")
        count, pairs, spare = self.outputs // vectors.WIDTH, self.inputs // 2, _ALIGNED // weight.itemsize
        even = count + count % 2
        size = even * vectors.WIDTH * self.inputs
        self._memory = torch.zeros(size + spare, dtype=weight.dtype)
        start = -self._memory.data_ptr() % _ALIGNED // weight.itemsize
        self.packed = self._memory[start : start + size].view(even // 2, pairs, 2, vectors.WIDTH, 2)
        in_tiles = weight.view(count, vectors.WIDTH, pairs, 2).permute(0, 2, 1, 3)
        self.packed[:, :, 0] = in_tiles[0::2]
        self.packed[: count // 2, :, 1] = in_tiles[1::2]
        self._added = None if bias is None else bias.float().contiguous()
        self._scales = None if scales is None else scales.float().contiguous()
        self.addresses = (self.packed.data_ptr(), _address(self._scales), _address(self._added))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.in_single(x).to(x.dtype)

    def in_single(self, x: torch.Tensor) -> torch.Tensor:
        """Return [.., outputs] in float32, for x [.., inputs] of at most ``max_rows`` rows."""
        rows = x.numel() // self.inputs
        count = tiles.padded(rows)
        operands = Operands(count, self.inputs, shorts=self.shorts)
        operands.written[:rows] = x.reshape(rows, self.inputs)
        operands.settle()
        out = torch.empty(count, self.outputs)
        team().run(
            tiles.multiply_together, operands.like, operands.addresses, self.addresses, out.data_ptr(), count,
            self.inputs, self.outputs,
        )  # fmt: skip
        return out[:rows].view(*x.shape[:-1], self.outputs)


class TiledCodes(Tiled):
    """The same with int8 codes [outputs, inputs] and a scale for each output."""

    shorts = True

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Raises RuntimeError where codes don't lie in tiles, or this machine is no faster with them."""
        if tiles is None or not tiles.MAX_SHORT_ROWS:
            raise RuntimeError("no tiles for codes on this machine")
        self.max_rows = tiles.MAX_SHORT_ROWS
        self._take(codes, scales, bias)

    def codes(self) -> torch.Tensor:
        """Return a copy of the codes as they were given."""
        return self.packed.permute(0, 2, 3, 1, 4).reshape(-1, self.inputs)[: self.outputs].contiguous()


class Operands:
    """Rows that are to meet tiles: as kernels write them, as products read them, and a scale each."""

    def __init__(self, rows: int, size: int, *, shorts: bool) -> None:
        in_pairs = vectors.MULTIPLIES_PAIRS and not shorts
        self.written = torch.zeros(rows, size, dtype=torch.bfloat16 if in_pairs else torch.float32)
        self.like = tiles.SHORT if shorts else tiles.OPERAND
        self._read = torch.zeros(rows, size, dtype=torch.int16) if shorts else self.written
        self._scales = torch.zeros(rows) if shorts else None
        self.addresses = (self.written.data_ptr(), self._read.data_ptr(), _address(self._scales))

    def settle(self) -> None:
        """Make what products read of what was written."""
        if self._scales is not None:
            tiles.settle(*self.addresses, *self.written.shape)


def lie_in_tiles(weight: torch.Tensor) -> bool:
    """Return whether ``weight`` [outputs, inputs] has a shape and place that tiles are made for."""
    outputs, inputs = weight.shape
    return weight.device.type == "cpu" and tiles is not None and not (outputs % vectors.WIDTH or inputs % 2)


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
