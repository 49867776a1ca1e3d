"""Matrix products of few rows with weights in tiles, and whole decode steps made of them, compiled by Numba.

A tile is 16 outputs: [pairs, 16, 2] bfloat16, so that one load of 64 bytes meets two numbers of a row; all weights of a
product lie one tile behind the other and are read once for up to twelve rows. With every product of a span in tiles
a step is one call without the interpreter, on one thread or a team of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from swarm.engine.compiled import (
    FAST,
    add_norm,
    add_round,
    attend_rows,
    gate,
    pointer,
    store_keys,
)
from swarm.engine.vectors import MANY_REGISTERS, MULTIPLIES_PAIRS, WIDTH, meet, tile_product

MAX_ROWS = 32 if MULTIPLIES_PAIRS else 4
"""For more rows products that convert weights once, or use each more often, are faster."""

OPERAND: Any = np.empty(0, np.uint16 if MULTIPLIES_PAIRS else np.float32)
"""What rows are when they meet weights: bfloat16, or float32."""

_FOUR = 4 if MANY_REGISTERS else 1
_TWO = 4 if MANY_REGISTERS else 2
_ONE_ROW, _ONE_BY_ONE = tile_product(1, 4), tile_product(1, 1)
_TWO_ROWS, _TWO_BY_ONE = tile_product(2, _TWO), tile_product(2, 1)
_FOUR_ROWS, _FOUR_BY_ONE = tile_product(4, _FOUR), tile_product(4, 1)
_EIGHT_ROWS, _EIGHT_BY_ONE = tile_product(8, 2), tile_product(8, 1)
_TWELVE_ROWS, _TWELVE_BY_ONE = tile_product(12, 2), tile_product(12, 1)
_GROUP = 4
"""Tiles that all rows pass before the next ones are read."""

# Columns of a layer's addresses, 0 for what it has not.
NORM_IN, NORM_MID, NORM_QUERY, NORM_KEY, QKV, QKV_BIAS, OUT, OUT_BIAS = range(8)
GATE_UP, GATE_UP_BIAS, DOWN, DOWN_BIAS, ROTATES, SLAB, INDEX, COLUMNS = range(8, 16)


def padded(rows: int) -> int:
    """Return how many rows are computed for ``rows``: 1, 2, 4, 8, 12, or a multiple of 4 from 16 on."""
    return rows if rows <= 2 else -(-rows // 4) * 4


@njit(**FAST)
def multiply(rank, team, like, x, weights, bias, out, rows, inputs, outputs):
    """out [rows, outputs] = x [rows, inputs] @ weights + bias, this thread's share of the outputs.

    ``rows`` is one of ``padded``'s; x is ``like``, the others float32; the bias' address may be 0.
    """
    tiles, pairs = outputs // WIDTH, inputs // 2
    words = inputs * like.itemsize // 4
    groups = (tiles + _GROUP - 1) // _GROUP
    begin, end = groups * rank // team * _GROUP, min(groups * (rank + 1) // team * _GROUP, tiles)
    for tile in range(begin, end, _GROUP):
        count = min(_GROUP, end - tile)
        w, y = weights + tile * pairs * 64, out + tile * 64
        row = 0
        while row < rows:
            left = rows - row
            own, to = x + row * words * 4, y + row * outputs * 4
            if left == 1:
                row += 1
                _one_row(like, own, words, w, pairs, to, outputs, count)
            elif left == 2:
                row += 2
                _two_rows(like, own, words, w, pairs, to, outputs, count)
            elif left == 4:
                row += 4
                _four_rows(like, own, words, w, pairs, to, outputs, count)
            elif left in (8, 16):
                row += 8
                _eight_rows(like, own, words, w, pairs, to, outputs, count)
            else:
                row += 12
                _twelve_rows(like, own, words, w, pairs, to, outputs, count)
    if bias != 0:
        b = carray(pointer(bias), outputs, np.float32)
        y = carray(pointer(out), rows * outputs, np.float32)
        for row in range(rows):
            for column in range(begin * WIDTH, end * WIDTH):
                y[row * outputs + column] += b[column]


@njit(**FAST)
def _one_row(like, x, words, weights, pairs, out, width, count):
    if count == 4:
        _ONE_ROW(like, x, words, weights, pairs, out, width)
    else:
        for tile in range(count):
            _ONE_BY_ONE(like, x, words, weights + tile * pairs * 64, pairs, out + tile * 64, width)


@njit(**FAST)
def _two_rows(like, x, words, weights, pairs, out, width, count):
    tile = 0
    while tile + _TWO <= count:
        _TWO_ROWS(like, x, words, weights + tile * pairs * 64, pairs, out + tile * 64, width)
        tile += _TWO
    for rest in range(tile, count):
        _TWO_BY_ONE(like, x, words, weights + rest * pairs * 64, pairs, out + rest * 64, width)


@njit(**FAST)
def _four_rows(like, x, words, weights, pairs, out, width, count):
    tile = 0
    while tile + _FOUR <= count:
        _FOUR_ROWS(like, x, words, weights + tile * pairs * 64, pairs, out + tile * 64, width)
        tile += _FOUR
    for rest in range(tile, count):
        _FOUR_BY_ONE(like, x, words, weights + rest * pairs * 64, pairs, out + rest * 64, width)


@njit(**FAST)
def _eight_rows(like, x, words, weights, pairs, out, width, count):
    tile = 0
    while tile + 2 <= count:
        _EIGHT_ROWS(like, x, words, weights + tile * pairs * 64, pairs, out + tile * 64, width)
        tile += 2
    if tile < count:
        _EIGHT_BY_ONE(like, x, words, weights + tile * pairs * 64, pairs, out + tile * 64, width)


@njit(**FAST)
def _twelve_rows(like, x, words, weights, pairs, out, width, count):
    tile = 0
    while tile + 2 <= count:
        _TWELVE_ROWS(like, x, words, weights + tile * pairs * 64, pairs, out + tile * 64, width)
        tile += 2
    if tile < count:
        _TWELVE_BY_ONE(like, x, words, weights + tile * pairs * 64, pairs, out + tile * 64, width)


@njit(**FAST)
def step(rank, team, barrier, layers, scales, shape, tables, rotation, work, out, own_like, operand, single, scratch):
    """One decode step through a span, this thread's share of it; the whole team calls it with its ranks.

    ``layers`` [layers, COLUMNS] (int64) and ``scales`` [layers, 4]: the epsilons of the norm in front, of the one in
    the middle and of the heads', and the attention's scale. ``shape``: rows, padded rows, hidden size, heads, groups,
    dim, inner size. ``tables`` [slabs, rows, 6] and ``rotation`` as in compiled.attend. ``work``: addresses of the
    residual, the operands of products (of the first and third, the second, the last) and the results (of the first, the second and
    last, the third): all float32 but operands, which are like ``operand``. ``out`` and KV are like ``own_like``.
    ``scratch`` [team, compiled.scratch_size].
    """
    rows, count, hidden, heads, groups, dim, inner = shape
    residual, normed, mixed, gated, qkv, added, gate_up = work
    width = (heads + 2 * groups) * dim
    first = rows * rank // team
    own = rows * (rank + 1) // team - first
    place, operands = first * hidden * 4, first * hidden * operand.itemsize
    own_scratch = scratch[rank]
    before = 0
    for layer in range(layers.shape[0]):
        a, eps = layers[layer], scales[layer]
        add_norm(
            residual + place, before, single, a[NORM_IN], normed + operands, operand, own, hidden, eps[0]
        )
        meet(single, barrier, team)
        multiply(rank, team, operand, normed, a[QKV], a[QKV_BIAS], qkv, count, hidden, width)
        meet(single, barrier, team)
        turned = (rotation[0] * a[ROTATES], rotation[1] * a[ROTATES])
        norms = (a[NORM_QUERY], a[NORM_KEY])
        table, sizes = tables[a[SLAB]], (heads, groups, dim)
        store_keys(rank, team, qkv, single, own_like, table, a[INDEX], sizes, turned, norms, eps[2], own_scratch)
        meet(single, barrier, team)
        attend_rows(
            rank, team, qkv, single, mixed, operand, own_like, table, a[INDEX], sizes, turned, norms, eps[2], eps[3],
            own_scratch,
        )
        meet(single, barrier, team)
        multiply(rank, team, operand, mixed, a[OUT], a[OUT_BIAS], added, count, heads * dim, hidden)
        meet(single, barrier, team)
        add_norm(
            residual + place, added + place, single, a[NORM_MID], normed + operands, operand, own, hidden, eps[1]
        )
        meet(single, barrier, team)
        multiply(rank, team, operand, normed, a[GATE_UP], a[GATE_UP_BIAS], gate_up, count, hidden, 2 * inner)
        meet(single, barrier, team)
        gate(gate_up + first * inner * 8, single, gated + first * inner * operand.itemsize, operand, own, inner)
        meet(single, barrier, team)
        multiply(rank, team, operand, gated, a[DOWN], a[DOWN_BIAS], added, count, inner, hidden)
        meet(single, barrier, team)
        before = added + place
    add_round(
        residual + place, added + place, single, out + first * hidden * own_like.itemsize, own_like, own * hidden
    )
    meet(single, barrier, team)


@njit(**FAST)
def multiply_together(rank, team, barrier, like, x, weights, bias, out, rows, inputs, outputs):
    """``multiply``, and wait until all of the team are through."""
    multiply(rank, team, like, x, weights, bias, out, rows, inputs, outputs)
    meet(like, barrier, team)
