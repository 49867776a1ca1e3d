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

_FAST: Any = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}

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
def _pointer(typingctx, address):
    """An address (int64) as a pointer that carray takes."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


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


@njit(inline="always", **_FAST)
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


@njit(**_FAST)
def add_norm(residual, added, added_like, weight, out, out_like, rows, size, eps):
    """residual += added (unless its address is 0); out = residual / rms(residual) * weight.

    ``residual`` and ``weight`` are float32; ``added`` and ``out`` have the dtypes of ``added_like`` and ``out_like``.
    """
    scale = carray(_pointer(weight), size, np.float32)
    for row in range(rows):
        start = row * size
        x = carray(_pointer(residual), (row + 1) * size, np.float32)[start:]
        y = carray(_pointer(out), (row + 1) * size, out_like.dtype)[start:]
        total = _ZERO
        if added != 0:
            z = carray(_pointer(added), (row + 1) * size, added_like.dtype)[start:]
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


@njit(**_FAST)
def add_round(residual, added, added_like, out, out_like, count):
    """out = residual + added, ``count`` numbers each."""
    x = carray(_pointer(residual), count, np.float32)
    z = carray(_pointer(added), count, added_like.dtype)
    y = carray(_pointer(out), count, out_like.dtype)
    for i in range(count):
        _put(y, i, x[i] + _get(z, i))


@njit(**_FAST)
def product_of_codes(x, codes, scales, out, shape):
    """out = x @ (codes * scales).T for few rows: ``shape`` is rows, outputs, inputs; codes int8 [outputs, inputs].

    The others are float32. One thread reads each row of codes once, as it lies in memory.
    """
    rows, outputs, inputs = shape
    factors = carray(_pointer(scales), outputs, np.float32)
    for output in range(outputs):
        row_of_codes = carray(_pointer(codes), (output + 1) * inputs, np.int8)[output * inputs :]
        for row in range(rows):
            values = carray(_pointer(x), (row + 1) * inputs, np.float32)[row * inputs :]
            result = carray(_pointer(out), rows * outputs, np.float32)
            total = _ZERO
            for i in range(inputs):
                total += values[i] * np.float32(row_of_codes[i])
            result[row * outputs + output] = total * factors[output]


@njit(**_FAST)
def gate(gate_up, like, out, out_like, rows, size):
    """out = silu(gate) * up, for rows of ``size`` gates followed by as many ups."""
    for row in range(rows):
        x = carray(_pointer(gate_up), (row + 1) * size * 2, like.dtype)
        gates, ups = x[row * size * 2 : row * size * 2 + size], x[row * size * 2 + size :]
        y = carray(_pointer(out), (row + 1) * size, out_like.dtype)[row * size :]
        for i in range(size):
            value = _get(gates, i)
            _put(y, i, value / (_ONE + _exp(-value)) * _get(ups, i))


@njit(**_FAST)
def _rotate(head, cos, sin):
    """Rotate one head in place, half against half, as transformers' rotate_half does."""
    half = head.size // 2
    low, high = head[:half], head[half:]
    for i in range(half):
        a, b = low[i], high[i]
        low[i] = a * cos[i] - b * sin[i]
        high[i] = b * cos[half + i] + a * sin[half + i]


@njit(**_FAST)
def _norm_head(head, weight, eps):
    total = _ZERO
    for i in range(head.size):
        total += head[i] * head[i]
    factor = np.float32(_ONE / np.sqrt(total / np.float32(head.size) + np.float32(eps)))
    for i in range(head.size):
        head[i] = head[i] * factor * weight[i]


@njit(**_FAST)
def attend(qkv, like, out, out_like, kv_like, table, layer, shape, rotation, norms, eps, scale, scratch):
    """Rotate queries and keys, store keys and values, and attend: one row after the other.

    ``qkv`` are rows of ``heads`` queries, ``groups`` keys and ``groups`` values; ``out`` rows of ``heads``.
    ``table`` [rows, 6] (int64): address of the row's slab, numbers from one layer's keys (or values) to the next and
    from one head to the next, the first slot it looks at, its own slot, its position. ``layer``: its index in the
    slab. ``shape``: heads, groups, dim. ``rotation``: addresses of cos and sin by position [positions, dim], or 0.
    ``norms``: addresses of the weights of the queries' and keys' norms, or 0. These are float32, and so is
    ``scratch``, with room for a row, one group's outputs and its scores.
    """
    heads, groups, dim = shape
    share = heads // groups
    width = (heads + 2 * groups) * dim
    query_norm = carray(_pointer(norms[0]), dim, np.float32)
    key_norm = carray(_pointer(norms[1]), dim, np.float32)
    values_from = (heads + groups) * dim
    mixed = scratch[width : width + share * dim]
    scores = scratch[width + share * dim :]
    for row in range(table.shape[0]):
        slab, layer_step, head_step, first, own, position = table[row]
        x = carray(_pointer(qkv), (row + 1) * width, like.dtype)[row * width :]
        y = carray(_pointer(out), (row + 1) * heads * dim, out_like.dtype)[row * heads * dim :]
        for i in range(width):
            scratch[i] = _get(x, i)
        if norms[0] != 0:
            for head in range(heads + groups):
                part = scratch[head * dim : (head + 1) * dim]
                _norm_head(part, query_norm if head < heads else key_norm, eps)
        if rotation[0] != 0:
            cos = carray(_pointer(rotation[0]), (position + 1) * dim, np.float32)[position * dim :]
            sin = carray(_pointer(rotation[1]), (position + 1) * dim, np.float32)[position * dim :]
            for head in range(heads + groups):
                _rotate(scratch[head * dim : (head + 1) * dim], cos, sin)
        for group in range(groups):
            start = 2 * layer * layer_step + group * head_step
            keys = carray(_pointer(slab), start + (own + 1) * dim, kv_like.dtype)[start:]
            start += layer_step
            values = carray(_pointer(slab), start + (own + 1) * dim, kv_like.dtype)[start:]
            for i in range(dim):
                _put(keys, own * dim + i, scratch[(heads + group) * dim + i])
                _put(values, own * dim + i, scratch[values_from + group * dim + i])
            queries = scratch[group * share * dim : (group + 1) * share * dim]
            _attend_group(
                queries, keys[first * dim :], values[first * dim :], share, dim, scale, scores, mixed
            )
            for i in range(share * dim):
                _put(y, group * share * dim + i, mixed[i])


@njit(**_FAST)
def _attend_group(queries, keys, values, share, dim, scale, scores, mixed):
    """Attention of ``share`` queries [share, dim] over the same keys and values [tokens, dim]."""
    length = keys.size // dim
    for token in range(length):
        start = token * dim
        for query in range(share):
            total = _ZERO
            for i in range(dim):
                total += queries[query * dim + i] * _get(keys, start + i)
            scores[query * length + token] = total
    for query in range(share):
        shares = scores[query * length : (query + 1) * length]
        _softmax(shares, np.float32(scale))
        _weigh(shares, values, dim, mixed[query * dim : (query + 1) * dim])


@njit(**_FAST)
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


@njit(**_FAST)
def _weigh(weights, values, dim, out):
    """out = weights @ values; four tokens at once, so that the sums are read and written a quarter as often."""
    for i in range(dim):
        out[i] = _ZERO
    whole = weights.size - weights.size % 4
    for token in range(0, whole, 4):
        first = values[token * dim : (token + 1) * dim]
        second = values[(token + 1) * dim : (token + 2) * dim]
        third = values[(token + 2) * dim : (token + 3) * dim]
        fourth = values[(token + 3) * dim : (token + 4) * dim]
        a, b, c, d = weights[token], weights[token + 1], weights[token + 2], weights[token + 3]
        for i in range(dim):
            out[i] += a * _get(first, i) + b * _get(second, i) + c * _get(third, i) + d * _get(fourth, i)
    for token in range(whole, weights.size):
        last = values[token * dim : (token + 1) * dim]
        weight = weights[token]
        for i in range(dim):
            out[i] += weight * _get(last, i)
