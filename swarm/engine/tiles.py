"""Matrix products of few rows with weights in tiles, and whole decode steps made of them, compiled by Numba.

A tile is 16 outputs: [pairs, 16, 2] bfloat16, so that one load of 64 bytes meets two numbers of a row. Two tiles lie
side by side, [tiles / 2, pairs, 2, 16, 2], so that a product's weights are one stream, read once for up to twelve rows.
With every product of a span in tiles
a step is one call without the interpreter, on one thread or a team of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import overload

from swarm.engine.compiled import (
    FAST,
    add_norm,
    add_round,
    attend_rows,
    from_bits,
    gate,
    pointer,
    store_keys,
)
from swarm.engine.vectors import (
    MANY_REGISTERS,
    MULTIPLIES_PAIRS,
    MULTIPLIES_SHORTS,
    WIDTH,
    meet,
    tile_product,
)

MAX_ROWS = 32 if MULTIPLIES_PAIRS else 4
"""For more rows products that convert weights once, or use each more often, are faster."""

MAX_SHORT_ROWS = 32 if MULTIPLIES_SHORTS else 0
"""The same for int8 weights."""

OPERAND: Any = np.empty(0, np.uint16 if MULTIPLIES_PAIRS else np.float32)
"""What rows are when they meet bfloat16 weights: bfloat16, or float32."""

SHORT: Any = np.empty(0, np.int16)
"""What they are when they meet int8 weights: rounded to 15 bits, with a scale for each row."""

LARGEST_SHORT = 16383
_MAGNITUDE = np.int32(0x7FFFFFFF)
_SHORT_PAIRS = 512
"""So many products of two pairs add up in 32 bits, whatever they are: 1,024 x 127 x LARGEST_SHORT < 2 ** 31."""

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
NORM_IN, NORM_MID, NORM_QUERY, NORM_KEY = range(4)
QKV, QKV_SCALES, QKV_BIAS, OUT, OUT_SCALES, OUT_BIAS = range(4, 10)
GATE_UP, GATE_UP_SCALES, GATE_UP_BIAS, DOWN, DOWN_SCALES, DOWN_BIAS = range(10, 16)
ROTATES, SLAB, INDEX, COLUMNS = range(16, 20)


def padded(rows: int) -> int:
    """Return how many rows are computed for ``rows``: 1, 2, 4, 8, 12, or a multiple of 4 from 16 on."""
    return rows if rows <= 2 else -(-rows // 4) * 4


def _pair_bytes(like):
    """Bytes of a pair of inputs' 16 outputs."""


@overload(_pair_bytes, inline="always")
def _pair_bytes_typed(like):
    octets = 32 if like.dtype == types.int16 else 64
    return lambda like: octets


def _finish(like, out, scales, row_scales, bias, rows, outputs, begin, end):
    """Scale and shift the columns [begin, end) of ``out``."""


@overload(_finish, inline="always")
def _finish_typed(like, out, scales, row_scales, bias, rows, outputs, begin, end):
    short = like.dtype == types.int16

    def finish(like, out, scales, row_scales, bias, rows, outputs, begin, end):
        if short:
            by_output = carray(pointer(scales), outputs, np.float32)
            by_row = carray(pointer(row_scales), rows, np.float32)
            for row in range(rows):
                y = carray(pointer(out), (row + 1) * outputs, np.float32)[row * outputs :]
                factor = by_row[row]
                for column in range(begin, end):
                    y[column] = y[column] * (factor * by_output[column])
        if bias != 0:
            added = carray(pointer(bias), outputs, np.float32)
            for row in range(rows):
                y = carray(pointer(out), (row + 1) * outputs, np.float32)[row * outputs :]
                for column in range(begin, end):
                    y[column] += added[column]

    return finish


def _settle(like, x, out, scales, rows, size):
    """Make operands of rows [rows, size]: int16 and a scale each, if they are to be ``like`` that."""


@overload(_settle)
def _settle_typed(like, x, out, scales, rows, size):
    if like.dtype != types.int16:
        return lambda like, x, out, scales, rows, size: None

    def settle(like, x, out, scales, rows, size):
        for row in range(rows):
            values = carray(pointer(x), (row + 1) * size, np.float32)[row * size :]
            bits = carray(pointer(x), (row + 1) * size, np.int32)[row * size :]
            shorts = carray(pointer(out), (row + 1) * size, np.int16)[row * size :]
            # The largest by its bits: unlike a maximum of floats, which must heed NaN, that becomes vectors.
            highest = np.int32(0)
            for i in range(size):
                highest = max(highest, np.int32(bits[i] & _MAGNITUDE))
            largest = from_bits(np.int32(highest))
            factor = np.float32(LARGEST_SHORT) / largest if largest > 0 else np.float32(0.0)
            for i in range(size):
                shorts[i] = np.int16(np.int32(np.floor(values[i] * factor + np.float32(0.5))))
            # A row with NaN or infinity must not come out as numbers.
            lost = largest * np.float32(0.0)
            carray(pointer(scales), row + 1, np.float32)[row] = largest / np.float32(LARGEST_SHORT) + lost

    return settle


@njit(**FAST)
def multiply(rank, team, like, operands, product, out, rows, inputs, outputs):
    """out [rows, outputs] = x [rows, inputs] @ weights + bias, this thread's share of the outputs.

    ``operands`` are addresses of rows as they were written, of x, as products read them, and of a scale for each row;
    ``product`` those of weights, a scale for each output, and the bias or 0. ``rows`` is one of ``padded``'s. x is
    ``like``, the others float32; scales belong to int16 rows and int8 weights.
    """
    _, x, row_scales = operands
    weights, scales, bias = product
    tiles, pairs = outputs // WIDTH, inputs // 2
    words = inputs * like.itemsize // 4
    octets = _pair_bytes(like)
    stride = pairs * octets
    pairs_at_once = _SHORT_PAIRS if octets == 32 else pairs
    groups = (tiles + _GROUP - 1) // _GROUP
    begin, end = groups * rank // team * _GROUP, min(groups * (rank + 1) // team * _GROUP, tiles)
    if octets == 32:
        for row in range(rows):
            y = carray(pointer(out), (row + 1) * outputs, np.float32)[row * outputs :]
            for column in range(begin * WIDTH, end * WIDTH):
                y[column] = np.float32(0.0)
    for tile in range(begin, end, _GROUP):
        count = min(_GROUP, end - tile)
        row = 0
        while row < rows:
            left = rows - row
            at_once = left if left <= 4 else 8 if left in (8, 16) else 12
            to = out + tile * WIDTH * 4 + row * outputs * 4
            for first in range(0, pairs, pairs_at_once):
                some = min(pairs_at_once, pairs - first)
                w = weights + tile * stride + first * 2 * octets
                own = x + row * words * 4 + first * like.itemsize * 2
                _some_tiles(at_once, like, own, words, w, some, stride, octets, to, outputs, count)
            row += at_once
    _finish(like, out, scales, row_scales, bias, rows, outputs, begin * WIDTH, end * WIDTH)


@njit(**FAST)
def _some_tiles(rows, like, x, words, weights, pairs, stride, octets, out, width, count):
    """Up to _GROUP tiles for one of the numbers of rows that are computed at once, as many at once as fit."""
    tile = 0
    while tile < count:
        w = weights + tile // 2 * 2 * stride + tile % 2 * octets
        to, left = out + tile * WIDTH * 4, count - tile
        if rows == 1:
            if left >= 4:
                _ONE_ROW(like, x, words, w, pairs, stride, to, width)
                tile += 4
            else:
                _ONE_BY_ONE(like, x, words, w, pairs, stride, to, width)
                tile += 1
        elif rows == 2:
            if left >= _TWO:
                _TWO_ROWS(like, x, words, w, pairs, stride, to, width)
                tile += _TWO
            else:
                _TWO_BY_ONE(like, x, words, w, pairs, stride, to, width)
                tile += 1
        elif rows == 4:
            if left >= _FOUR:
                _FOUR_ROWS(like, x, words, w, pairs, stride, to, width)
                tile += _FOUR
            else:
                _FOUR_BY_ONE(like, x, words, w, pairs, stride, to, width)
                tile += 1
        elif rows == 8:
            if left >= 2:
                _EIGHT_ROWS(like, x, words, w, pairs, stride, to, width)
                tile += 2
            else:
                _EIGHT_BY_ONE(like, x, words, w, pairs, stride, to, width)
                tile += 1
        elif left >= 2:
            _TWELVE_ROWS(like, x, words, w, pairs, stride, to, width)
            tile += 2
        else:
            _TWELVE_BY_ONE(like, x, words, w, pairs, stride, to, width)
            tile += 1


@njit(**FAST)
def _norm_own(residual, added, weight, eps, place, rows, size, first, operand, written, single):
    """Add to and norm this thread's rows, from ``first`` on, as what the next product reads."""
    begin = first * size
    add_norm(residual, added, single, weight, place[0] + begin * written.itemsize, written, rows, size, eps)
    _settle(operand, place[0] + begin * 4, place[1] + begin * 2, place[2] + first * 4, rows, size)


@njit(**FAST)
def step(
    rank, team, barrier, layers, scales, shape, tables, rotation, work, operands, out, own_like, operand, written,
    single, scratch,
):  # fmt: skip
    """One decode step through a span, this thread's share of it; the whole team calls it with its ranks.

    ``layers`` [layers, COLUMNS] (int64) and ``scales`` [layers, 4]: the epsilons of the norm in front, of the one in
    the middle and of the heads', and the attention's scale. ``shape``: rows, padded rows, hidden size, heads, groups,
    dim, inner size. ``tables`` [slabs, rows, 6] and ``rotation`` as in compiled.attend. ``work``: addresses, all
    float32, of the residual and the results of products (of the first, of the second and last, of the third).
    ``operands`` [3, 3]: for those of the first and third, the second and the last product, where kernels write them,
    like ``written``, where products read them, like ``operand`` (the same place unless that is int16), and the
    rows' scales. ``out`` and KV are like ``own_like``. ``scratch`` [team, compiled.scratch_size].
    """
    rows, count, hidden, heads, groups, dim, inner = shape
    residual, qkv, added, gate_up = work
    mixed_size, width = heads * dim, (heads + 2 * groups) * dim
    first = rows * rank // team
    own = rows * (rank + 1) // team - first
    normed, mixed, gated = operands[0], operands[1], operands[2]
    own_scratch = scratch[rank]
    place, from_hidden, from_inner = first * hidden * 4, first * hidden, first * inner
    before = 0
    for layer in range(layers.shape[0]):
        a, eps = layers[layer], scales[layer]
        _norm_own(
            residual + place, before, a[NORM_IN], eps[0], normed, own, hidden, first, operand, written, single
        )
        meet(single, barrier, team)
        weights = (a[QKV], a[QKV_SCALES], a[QKV_BIAS])
        multiply(rank, team, operand, normed, weights, qkv, count, hidden, width)
        meet(single, barrier, team)
        turned = (rotation[0] * a[ROTATES], rotation[1] * a[ROTATES])
        norms = (a[NORM_QUERY], a[NORM_KEY])
        table, sizes = tables[a[SLAB]], (heads, groups, dim)
        store_keys(
            rank, team, qkv, single, own_like, table, a[INDEX], sizes, turned, norms, eps[2], own_scratch
        )
        meet(single, barrier, team)
        attend_rows(
            rank, team, qkv, single, mixed[0], written, own_like, table, a[INDEX], sizes, turned, norms, eps[2], eps[3],
            own_scratch,
        )  # fmt: skip
        meet(single, barrier, team)
        if operand.itemsize != written.itemsize:
            at = first * mixed_size
            _settle(operand, mixed[0] + at * 4, mixed[1] + at * 2, mixed[2] + first * 4, own, mixed_size)
            meet(single, barrier, team)
        weights = (a[OUT], a[OUT_SCALES], a[OUT_BIAS])
        multiply(rank, team, operand, mixed, weights, added, count, mixed_size, hidden)
        meet(single, barrier, team)
        before = added + place
        _norm_own(
            residual + place,
            before,
            a[NORM_MID],
            eps[1],
            normed,
            own,
            hidden,
            first,
            operand,
            written,
            single,
        )
        meet(single, barrier, team)
        weights = (a[GATE_UP], a[GATE_UP_SCALES], a[GATE_UP_BIAS])
        multiply(rank, team, operand, normed, weights, gate_up, count, hidden, 2 * inner)
        meet(single, barrier, team)
        gate(gate_up + from_inner * 8, single, gated[0] + from_inner * written.itemsize, written, own, inner)
        _settle(
            operand, gated[0] + from_inner * 4, gated[1] + from_inner * 2, gated[2] + first * 4, own, inner
        )
        meet(single, barrier, team)
        weights = (a[DOWN], a[DOWN_SCALES], a[DOWN_BIAS])
        multiply(rank, team, operand, gated, weights, added, count, inner, hidden)
        meet(single, barrier, team)
    add_round(residual + place, before, single, out + from_hidden * own_like.itemsize, own_like, own * hidden)
    meet(single, barrier, team)


@njit(**FAST)
def multiply_together(rank, team, barrier, like, operands, product, out, rows, inputs, outputs):
    """``multiply``, and wait until all of the team are through."""
    multiply(rank, team, like, operands, product, out, rows, inputs, outputs)
    meet(like, barrier, team)


@njit(**FAST)
def settle(x, out, scales, rows, size):
    """Make int16 rows and their scales of float32 ones."""
    _settle(SHORT, x, out, scales, rows, size)
