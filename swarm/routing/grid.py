"""The shortest-path problem as arrays, and its exact solution. Knows nothing of models or views.

A row is one span of one node. The layers form a chain, so the search over (layer, row)
needs no heap: once a layer, the costs so far are multiplied (min, plus) with the matrix of moves (Viterbi).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Grid:
    """Costs in seconds; infinity forbids.

    ``start`` [rows] from the origin into a row, ``moves`` [rows, rows] between rows (the diagonal is unused),
    ``end`` [rows] back to the origin, ``compute`` [layers, rows].
    """

    start: Array
    moves: Array
    end: Array
    compute: Array

    def without(self, layer: int, row: int) -> Grid:
        """Return the same problem where ``row`` may not compute ``layer``."""
        compute = self.compute.copy()
        compute[layer, row] = np.inf
        return replace(self, compute=compute)

    def only(self, first: int, last: int, rows: Sequence[int]) -> Grid:
        """Return the same problem where ``rows`` alone may compute layers ``first`` to ``last``, inclusive."""
        compute = self.compute.copy()
        kept = compute[first : last + 1, rows].copy()
        compute[first : last + 1] = np.inf
        compute[first : last + 1, rows] = kept
        return replace(self, compute=compute)


def cheapest_rows(grid: Grid, max_hops: int | None = None) -> tuple[float, list[int]] | None:
    """Return the least cost and the row that computes each layer, or None when no chain is finite.

    A hop is a run of layers on one row; ``max_hops`` bounds their number. A row may come twice in a result.
    """
    layers, rows = grid.compute.shape
    if rows == 0 or max_hops == 0:
        return None
    levels = max_hops or 1
    cost = np.full((levels, rows), np.inf)
    cost[0] = grid.start + grid.compute[0]
    moved_here = np.zeros((layers, levels, rows), dtype=bool)
    came_from = np.zeros((layers, levels, rows), dtype=np.intp)
    columns = np.arange(rows)
    for layer in range(1, layers):
        via = cost[:, :, None] + grid.moves
        source = via.argmin(axis=1)
        moved = via[np.arange(levels)[:, None], source, columns]
        if max_hops is not None:
            moved[1:], source[1:] = moved[:-1].copy(), source[:-1].copy()
            moved[0] = np.inf
        np.less(moved, cost, out=moved_here[layer])
        came_from[layer] = source
        cost = np.minimum(moved, cost) + grid.compute[layer]
    total = cost + grid.end
    level, row = (int(i) for i in np.unravel_index(int(total.argmin()), total.shape))
    if not np.isfinite(total[level, row]):
        return None
    chain = [row]
    for layer in range(layers - 1, 0, -1):
        if moved_here[layer, level, row]:
            row, level = int(came_from[layer, level, row]), level - (max_hops is not None)
        chain.append(row)
    return float(total.min()), chain[::-1]
