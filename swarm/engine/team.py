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
            threading.Thread(target=_help, args=(rank, calls), name=f"swarm-compute-{rank}", daemon=True).start()
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

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """``weight`` is [outputs, inputs]. Raises RuntimeError for weights that don't lie in tiles."""
        self.outputs, self.inputs = weight.shape
        if tiles is None or weight.dtype != torch.bfloat16 or self.outputs % vectors.WIDTH or self.inputs % 2:
            raise RuntimeError("no tiles for weights of this dtype or shape")
        self.max_rows: int = tiles.MAX_ROWS
        self._memory = torch.empty(weight.numel() + _ALIGNED // weight.itemsize, dtype=weight.dtype)
        start = -self._memory.data_ptr() % _ALIGNED // weight.itemsize
        packed = self._memory[start : start + weight.numel()]
        grouped = weight.view(self.outputs // vectors.WIDTH, vectors.WIDTH, self.inputs // 2, 2)
        packed.view(-1, self.inputs // 2, vectors.WIDTH, 2).copy_(grouped.permute(0, 2, 1, 3))
        self._bias = None if bias is None else bias.float().contiguous()
        self.addresses = (packed.data_ptr(), 0 if self._bias is None else self._bias.data_ptr())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.in_single(x).to(x.dtype)

    def in_single(self, x: torch.Tensor) -> torch.Tensor:
        """Return [.., outputs] in float32, for x [.., inputs] of at most ``max_rows`` rows."""
        rows = x.numel() // self.inputs
        count = tiles.padded(rows)
        operand = torch.zeros(count, self.inputs, dtype=operand_dtype())
        operand[:rows] = x.view(rows, self.inputs)
        out = torch.empty(count, self.outputs)
        team().run(
            tiles.multiply_together, tiles.OPERAND, operand.data_ptr(), *self.addresses, out.data_ptr(), count,
            self.inputs, self.outputs,
        )  # fmt: skip
        return out[:rows].view(*x.shape[:-1], self.outputs)


def operand_dtype() -> torch.dtype:
    """Return the dtype of rows that meet tiles."""
    return torch.bfloat16 if vectors.MULTIPLIES_PAIRS else torch.float32
