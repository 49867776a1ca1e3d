"""What stands between the matrix products of a decode step, compiled by Numba: norms, rotation, KV, attention, gate.

A step of few rows is bound by the weights' way through memory; dozens of small operators a layer, each with its own
dispatch and its own pass over memory, cost as much again. These kernels do each stretch between two products in one
call. They compute in float32, round where they store, and know nothing of models: arguments are addresses and sizes.
Without Numba, or where a self-check fails (see ``fused``), torch's operators do the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic, overload

from swarm.engine.vectors import MANY_REGISTERS, WIDTH, dot_products, fetch, weighted_sums

FAST: Any = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}

_TOKENS = 4 if MANY_REGISTERS else 2
"""Tokens whose keys are multiplied at once."""
_PARTS = 4 if MANY_REGISTERS else 2
"""Vectors of a value that are summed at once."""

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_HIGHEST = np.float32(88.0)
_LOWEST = np.float32(-87.0)
_EXP_5 = np.float32(1.9875691500e-4)
_EXP_4 = np.float32(1.3981999507e-3)
_EXP_3 = np.float32(8.3334519073e-3)
_EXP_2 = np.float32(4.1665795894e-2)
_EXP_1 = np.float32(1.6666665459e-1)
_EXP_0 = np.float32(5.0000001201e-1)
_ONE = np.float32(1.0)
_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)


@intrinsic
def pointer(typingctx, address):
    """An address (int64) as a pointer that carray takes."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@intrinsic
def from_bits(typingctx, bits):
    """A float32 by its bits (int32)."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _widened(typingctx, bits):
    """bfloat16, as its 16 bits, to float32."""

    def generate(context, builder, signature, arguments):
        word = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(word, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _narrowed(typingctx, value):
    """float32 to the bits of the nearest bfloat16, ties to even; NaN stays NaN but for payloads of low bits only."""

    def generate(context, builder, signature, arguments):
        word = ir.IntType(32)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(builder.add(bits, ir.Constant(word, 0x7FFF)), odd)
        return builder.trunc(builder.lshr(rounded, ir.Constant(word, 16)), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def _power_of_two(typingctx, exponent):
    """2 ** exponent (int32 in -126..127) as float32."""

    def generate(context, builder, signature, arguments):
        word = ir.IntType(32)
        biased = builder.add(arguments[0], ir.Constant(word, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.int32), generate


def _get(array, index):
    """Element ``index`` as float32."""


@overload(_get, inline="always")
def _get_typed(array, index):
    if array.dtype == types.uint16:
        return lambda array, index: _widened(array[index])
    return lambda array, index: array[index]


def _put(array, index, value):
    """Round ``value`` (float32) to the array's type and store it."""


@overload(_put, inline="always")
def _put_typed(array, index, value):
    if array.dtype == types.uint16:

        def put_rounded(array, index, value):
            array[index] = _narrowed(value)

        return put_rounded

    def put(array, index, value):
        array[index] = value

    return put


@njit(inline="always", **FAST)
def _exp(x):
    """e ** x in float32, after Cephes' expf: within 2 units of the last place, and no call: loops become vectors."""
    x = min(max(x, _LOWEST), _HIGHEST)
    n = np.floor(x * _LOG2_E + _HALF)
    f = x - n * _LN2_HIGH - n * _LN2_LOW
    p = _EXP_5
    p = p * f + _EXP_4
    p = p * f + _EXP_3
    p = p * f + _EXP_2
    p = p * f + _EXP_1
    p = p * f + _EXP_0
    return (p * f * f + f + _ONE) * _power_of_two(np.int32(n))


@njit(**FAST)
def add_norm(residual, added, added_like, weight, out, out_like, rows, size, eps):
    """residual += added (unless its address is 0); out = residual / rms(residual) * weight.

    ``residual`` and ``weight`` are float32; ``added`` and ``out`` have the dtypes of ``added_like`` and ``out_like``.
    """
    scale = carray(pointer(weight), size, np.float32)
    for row in range(rows):
        start = row * size
        x = carray(pointer(residual), (row + 1) * size, np.float32)[start:]
        y = carray(pointer(out), (row + 1) * size, out_like.dtype)[start:]
        total = _ZERO
        if added != 0:
            z = carray(pointer(added), (row + 1) * size, added_like.dtype)[start:]
            for i in range(size):
                value = x[i] + _get(z, i)
                x[i] = value
                total += value * value
        else:
            for i in range(size):
                total += x[i] * x[i]
        factor = np.float32(_ONE / np.sqrt(total / np.float32(size) + np.float32(eps)))
        for i in range(size):
            _put(y, i, x[i] * factor * scale[i])


@njit(**FAST)
def add_round(residual, added, added_like, out, out_like, count):
    """out = residual + added, ``count`` numbers each."""
    x = carray(pointer(residual), count, np.float32)
    z = carray(pointer(added), count, added_like.dtype)
    y = carray(pointer(out), count, out_like.dtype)
    for i in range(count):
        _put(y, i, x[i] + _get(z, i))


@njit(**FAST)
def product_of_codes(x, codes, scales, out, shape):
    """out = x @ (codes * scales).T for few rows: ``shape`` is rows, outputs, inputs; codes int8 [outputs, inputs].

    The others are float32. One thread reads each row of codes once, as it lies in memory.
    """
    rows, outputs, inputs = shape
    factors = carray(pointer(scales), outputs, np.float32)
    for output in range(outputs):
        row_of_codes = carray(pointer(codes), (output + 1) * inputs, np.int8)[output * inputs :]
        for row in range(rows):
            values = carray(pointer(x), (row + 1) * inputs, np.float32)[row * inputs :]
            result = carray(pointer(out), rows * outputs, np.float32)
            total = _ZERO
            for i in range(inputs):
                total += values[i] * np.float32(row_of_codes[i])
            result[row * outputs + output] = total * factors[output]


@njit(**FAST)
def gate(gate_up, like, out, out_like, rows, size):
    """out = silu(gate) * up, for rows of ``size`` gates followed by as many ups."""
    for row in range(rows):
        x = carray(pointer(gate_up), (row + 1) * size * 2, like.dtype)
        gates, ups = x[row * size * 2 : row * size * 2 + size], x[row * size * 2 + size :]
        y = carray(pointer(out), (row + 1) * size, out_like.dtype)[row * size :]
        for i in range(size):
            value = _get(gates, i)
            _put(y, i, value / (_ONE + _exp(-value)) * _get(ups, i))


@njit(**FAST)
def _rotate(head, cos, sin):
    """Rotate one head in place, half against half, as transformers' rotate_half does."""
    half = head.size // 2
    low, high = head[:half], head[half:]
    for i in range(half):
        a, b = low[i], high[i]
        low[i] = a * cos[i] - b * sin[i]
        high[i] = b * cos[half + i] + a * sin[half + i]


@njit(**FAST)
def _norm_head(head, weight, eps):
    total = _ZERO
    for i in range(head.size):
        total += head[i] * head[i]
    factor = np.float32(_ONE / np.sqrt(total / np.float32(head.size) + np.float32(eps)))
    for i in range(head.size):
        head[i] = head[i] * factor * weight[i]


@njit(**FAST)
def attend(qkv, like, out, out_like, kv_like, table, layer, shape, rotation, norms, eps, scale, scratch):
    """Rotate queries and keys, store keys and values, and attend, for rows of one layer.

    ``qkv`` are rows of ``heads`` queries, ``groups`` keys and ``groups`` values; ``out`` rows of ``heads``.
    ``table`` [rows, 6] (int64): address of the row's slab, numbers from one layer's keys (or values) to the next and
    from one head to the next, the first slot it looks at, its own slot, its position. ``layer``: its index in the
    slab. ``shape``: heads, groups, dim. ``rotation``: addresses of cos and sin by position [positions, dim], or 0.
    ``norms``: addresses of the weights of the queries' and keys' norms, or 0. These are float32, and so is
    ``scratch`` (see scratch_size).
    """
    store_keys(0, 1, qkv, like, kv_like, table, layer, shape, rotation, norms, eps, scratch)
    attend_rows(
        0, 1, qkv, like, out, out_like, kv_like, table, layer, shape, rotation, norms, eps, scale, scratch
    )


def scratch_size(heads: int, groups: int, dim: int, tokens: int) -> int:
    """Return how many float32 one thread needs beside it for rows that look at up to ``tokens`` tokens."""
    return heads // groups * (2 * dim + tokens) + dim


@njit(**FAST)
def store_keys(rank, team, qkv, like, kv_like, table, layer, shape, rotation, norms, eps, scratch):
    """Store the keys and values of this thread's share of rows and groups, in front of any that attends."""
    heads, groups, dim = shape
    width = (heads + 2 * groups) * dim
    key = scratch[:dim]
    for item in range(rank, table.shape[0] * groups, team):
        row, group = item // groups, item % groups
        slab, layer_step, head_step, _first, own, position = table[row]
        x = carray(pointer(qkv), (row + 1) * width, like.dtype)[row * width :]
        start = 2 * layer * layer_step + group * head_step
        keys = carray(pointer(slab), start + (own + 1) * dim, kv_like.dtype)[start:]
        values = carray(pointer(slab), start + layer_step + (own + 1) * dim, kv_like.dtype)[
            start + layer_step :
        ]
        _take_head(x, (heads + group) * dim, key, norms[1], eps, rotation, position)
        for i in range(dim):
            _put(keys, own * dim + i, key[i])
            _put(values, own * dim + i, _get(x, (heads + groups + group) * dim + i))


@njit(**FAST)
def attend_rows(
    rank, team, qkv, like, out, out_like, kv_like, table, layer, shape, rotation, norms, eps, scale, scratch
):
    """Attend with this thread's share of rows and groups, once all keys and values are stored."""
    heads, groups, dim = shape
    share = heads // groups
    width = (heads + 2 * groups) * dim
    queries, mixed = scratch[: share * dim], scratch[share * dim : 2 * share * dim]
    scores = scratch[2 * share * dim :]
    for item in range(rank, table.shape[0] * groups, team):
        row, group = item // groups, item % groups
        slab, layer_step, head_step, first, own, position = table[row]
        x = carray(pointer(qkv), (row + 1) * width, like.dtype)[row * width :]
        y = carray(pointer(out), (row + 1) * heads * dim, out_like.dtype)[row * heads * dim :]
        for head in range(share):
            part = queries[head * dim : (head + 1) * dim]
            _take_head(x, (group * share + head) * dim, part, norms[0], eps, rotation, position)
        start = 2 * layer * layer_step + group * head_step
        keys = carray(pointer(slab), start + (own + 1) * dim, kv_like.dtype)[start + first * dim :]
        start += layer_step
        values = carray(pointer(slab), start + (own + 1) * dim, kv_like.dtype)[start + first * dim :]
        following = min(item + team, table.shape[0] * groups - 1)
        slab, layer_step, head_step, first = table[following // groups][:4]
        ahead = 2 * layer * layer_step + following % groups * head_step + first * dim
        ahead = slab + ahead * kv_like.itemsize
        _attend_group(queries, keys, values, share, dim, scale, scores, mixed, ahead)
        for i in range(share * dim):
            _put(y, group * share * dim + i, mixed[i])


@njit(**FAST)
def _take_head(x, start, head, norm, eps, rotation, position):
    """head = the row's numbers from ``start`` on, normed and rotated."""
    dim = head.size
    for i in range(dim):
        head[i] = _get(x, start + i)
    if norm != 0:
        _norm_head(head, carray(pointer(norm), dim, np.float32), eps)
    if rotation[0] != 0:
        cos = carray(pointer(rotation[0]), (position + 1) * dim, np.float32)[position * dim :]
        sin = carray(pointer(rotation[1]), (position + 1) * dim, np.float32)[position * dim :]
        _rotate(head, cos, sin)


@njit(**FAST)
def _attend_group(queries, keys, values, share, dim, scale, scores, mixed, ahead):
    """Attention of ``share`` queries [share, dim] over the same keys and values [tokens, dim]; ``ahead`` comes next."""
    length = keys.size // dim
    parts = dim // WIDTH
    in_vectors = parts * WIDTH == dim
    if in_vectors:
        _score_in_vectors(
            keys,
            queries.ctypes.data,
            keys.ctypes.data,
            share,
            parts,
            length,
            scores.ctypes.data,
            values.ctypes.data,
        )
    else:
        _score(queries, keys, share, dim, length, scores)
    for query in range(share):
        shares = scores[query * length : (query + 1) * length]
        _softmax(shares, np.float32(scale))
        if not in_vectors:
            _weigh(shares, values, dim, mixed[query * dim : (query + 1) * dim])
    if in_vectors:
        _weigh_in_vectors(
            values, scores.ctypes.data, values.ctypes.data, share, parts, length, mixed.ctypes.data, ahead
        )


_ONE_DOT, _FOUR_DOTS = dot_products(1, 1), dot_products(1, _TOKENS)
_TWO_BY_ONE, _TWO_BY_FOUR = dot_products(2, 1), dot_products(2, _TOKENS)
_THREE_BY_ONE, _THREE_BY_FOUR = dot_products(3, 1), dot_products(3, _TOKENS)
_ONE_SUM, _ONE_WIDE = weighted_sums(1, 1), weighted_sums(1, _PARTS)
_TWO_SUMS, _TWO_WIDE = weighted_sums(2, 1), weighted_sums(2, _PARTS)
_THREE_SUMS, _THREE_WIDE = weighted_sums(3, 1), weighted_sums(3, _PARTS)


@njit(**FAST)
def _score_in_vectors(like, queries, keys, share, parts, length, scores, ahead):
    """scores [share, length]; up to three queries share each load of a key. The others are addresses and sizes.

    What lies at ``ahead``, as long as the keys, is needed next.
    """
    step = parts * WIDTH * like.itemsize
    for query in range(0, share, 3):
        left = share - query
        own, out = queries + query * parts * WIDTH * 4, scores + query * length * 4
        token = 0
        while token < length:
            four = token + _TOKENS <= length
            key, to = keys + token * step, out + token * 4
            if query == 0:
                for line in range(token * step, (token + _TOKENS) * step, 64):
                    fetch(like, ahead + line)
            if left == 1:
                if four:
                    _FOUR_DOTS(like, own, key, parts, to, length)
                else:
                    _ONE_DOT(like, own, key, parts, to, length)
            elif left == 2:
                if four:
                    _TWO_BY_FOUR(like, own, key, parts, to, length)
                else:
                    _TWO_BY_ONE(like, own, key, parts, to, length)
            elif four:
                _THREE_BY_FOUR(like, own, key, parts, to, length)
            else:
                _THREE_BY_ONE(like, own, key, parts, to, length)
            token += _TOKENS if four else 1


@njit(**FAST)
def _weigh_in_vectors(like, weights, values, share, parts, length, out, ahead):
    """out [share, 16 x parts] = weights [share, length] @ values; up to three queries share each load of a value.

    What lies at ``ahead`` as the values lie is needed next.
    """
    dim = parts * WIDTH
    for query in range(0, share, 3):
        left = share - query
        own, to = weights + query * length * 4, out + query * dim * 4
        part = 0
        while part < parts:
            wide = part + _PARTS <= parts
            value, place = values + part * WIDTH * like.itemsize, to + part * WIDTH * 4
            soon = (ahead if query == 0 else values) + part * WIDTH * like.itemsize
            if left == 1:
                if wide:
                    _ONE_WIDE(like, own, length, value, dim, length, place, soon)
                else:
                    _ONE_SUM(like, own, length, value, dim, length, place, soon)
            elif left == 2:
                if wide:
                    _TWO_WIDE(like, own, length, value, dim, length, place, soon)
                else:
                    _TWO_SUMS(like, own, length, value, dim, length, place, soon)
            elif wide:
                _THREE_WIDE(like, own, length, value, dim, length, place, soon)
            else:
                _THREE_SUMS(like, own, length, value, dim, length, place, soon)
            part += _PARTS if wide else 1


@njit(**FAST)
def _score(queries, keys, share, dim, length, scores):
    for token in range(length):
        start = token * dim
        for query in range(share):
            total = _ZERO
            for i in range(dim):
                total += queries[query * dim + i] * _get(keys, start + i)
            scores[query * length + token] = total


@njit(**FAST)
def _softmax(scores, scale):
    best = scores[0]
    for i in range(1, scores.size):
        best = max(best, scores[i])
    total = _ZERO
    for i in range(scores.size):
        weight = _exp((scores[i] - best) * scale)
        scores[i] = weight
        total += weight
    factor = np.float32(_ONE / total)
    for i in range(scores.size):
        scores[i] *= factor


@njit(**FAST)
def _weigh(weights, values, dim, out):
    """out = weights @ values."""
    for i in range(dim):
        out[i] = _ZERO
    for token in range(weights.size):
        row = values[token * dim : (token + 1) * dim]
        weight = weights[token]
        for i in range(dim):
            out[i] += weight * _get(row, i)
