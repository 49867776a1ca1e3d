"""Innermost loops of the compiled kernels, written in LLVM's vectors: products with tiles of weights, and attention.

What Numba makes of loops over arrays keeps neither sums in registers nor bfloat16 in pairs. Each function here makes
an intrinsic for a fixed number of rows (or queries), whose sums are so many registers; LLVM fits vectors of 16 numbers
to what the machine has. Arguments are addresses and sizes (int64); nothing is checked.
"""

from __future__ import annotations

import inspect
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic

WIDTH = 16
"""Numbers of a vector, outputs of a tile."""

_LINE_BYTES = 128
"""Between what is written by different threads at different times: two lines of a cache."""
BARRIER_BYTES = 2 * _LINE_BYTES
_SPINS = 2000
"""Looks at a barrier, tens of nanoseconds each, before the thread lets others run."""

_LONG = ir.IntType(64)
_WORD = ir.IntType(32)
_FLOAT = ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, WIDTH)
_WORDS = ir.VectorType(_WORD, WIDTH)
_SHORTS = ir.VectorType(ir.IntType(16), WIDTH)


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_PAIRS = ir.VectorType(_BFloat(), 2 * WIDTH)
_BYTES = ir.VectorType(ir.IntType(8), 2 * WIDTH)
_MANY_SHORTS = ir.VectorType(ir.IntType(16), 2 * WIDTH)


def _features() -> dict[str, bool]:
    if config.CPU_NAME or config.CPU_FEATURES:  # Numba compiles for another machine than this one
        return {}
    try:
        return dict(llvmlite.binding.get_host_cpu_features())
    except RuntimeError:  # LLVM can't tell on this platform
        return {}


_HAS = _features()

MULTIPLIES_PAIRS = _HAS.get("avx512bf16", False)
"""Whether one instruction multiplies pairs of bfloat16 and adds to float32."""

MULTIPLIES_SHORTS = _HAS.get("avx512vnni", False)
"""Whether one instruction multiplies pairs of int16 and adds to int32."""

MANY_REGISTERS = _HAS.get("avx512f", False)
"""Whether 32 vectors of 16 fit the registers; else sums are kept fewer."""


def _long(value: int) -> ir.Constant:
    return ir.Constant(_LONG, value)


def _all(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


_NOTHING = _all(_FLOATS, 0.0)


def _address(b: ir.IRBuilder, base: Any, *terms: tuple[Any, int]) -> Any:
    """Return base + the sum of terms (value, factor)."""
    for value, factor in terms:
        base = b.add(base, value if factor == 1 else b.mul(value, _long(factor)))
    return base


def _load(b: ir.IRBuilder, address: Any, kind: ir.Type, align: int = 4) -> Any:
    loaded = b.load(b.inttoptr(address, kind.as_pointer()))
    loaded.align = align
    return loaded


def _store(b: ir.IRBuilder, value: Any, address: Any) -> None:
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = 4


def _spread(b: ir.IRBuilder, value: Any) -> Any:
    """Return a vector whose every number is ``value``."""
    kind = ir.VectorType(value.type, WIDTH)
    one = b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_WORD, 0))
    return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(_WORDS, [0] * WIDTH))


def _function(b: ir.IRBuilder, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> Any:
    return cgutils.get_or_insert_function(b.module, ir.FunctionType(result, arguments), name)


def _fused(b: ir.IRBuilder, x: Any, y: Any, total: Any) -> Any:
    return b.call(_function(b, "llvm.fma.v16f32", _FLOATS, [_FLOATS] * 3), [x, y, total])


def _loop(
    b: ir.IRBuilder, count: Any, first: list[ir.Constant], body: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Run ``body`` for 0 <= i < count (at least once) on vectors that begin as ``first``; return these at the end."""
    before, loop, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
    b.branch(loop)
    b.position_at_end(loop)
    index = b.phi(_LONG)
    index.add_incoming(_long(0), before)
    totals = [b.phi(begin.type) for begin in first]
    for total, begin in zip(totals, first, strict=True):
        total.add_incoming(begin, before)
    results = body(index, totals)
    following = b.add(index, _long(1))
    index.add_incoming(following, b.block)
    for total, result in zip(totals, results, strict=True):
        total.add_incoming(result, b.block)
    b.cbranch(b.icmp_signed("<", following, count), loop, after)
    b.position_at_end(after)
    return results


def _widened(b: ir.IRBuilder, address: Any, is_half: bool) -> Any:
    """Load 16 numbers, bfloat16 if ``is_half``, as float32."""
    if not is_half:
        return _load(b, address, _FLOATS)
    words = b.zext(_load(b, address, _SHORTS, 2), _WORDS)
    return b.bitcast(b.shl(words, _all(_WORDS, 16)), _FLOATS)


def _sum(b: ir.IRBuilder, vector: Any) -> Any:
    add = _function(b, "llvm.vector.reduce.fadd.v16f32", _FLOAT, [_FLOAT, _FLOATS])
    return b.call(add, [ir.Constant(_FLOAT, 0.0), vector], fastmath=("reassoc", "nsz"))


def _intrinsic(arguments: int, generate: Callable[..., None]) -> Any:
    """Return an intrinsic of an array, of which the dtype alone counts, and so many int64; it returns nothing."""

    def kernel(_: Any, like: Any, *__: Any) -> Any:
        def code(context: Any, builder: ir.IRBuilder, _: Any, values: Sequence[Any]) -> Any:
            generate(builder, like.dtype, *values[1:])
            return context.get_dummy_value()

        return types.void(like, *[types.int64] * arguments), code

    # Numba counts arguments by the signature.
    names = ["typingctx", "like", *(f"number_{i}" for i in range(arguments))]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    kernel.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return intrinsic(kernel)


def tile_product(rows: int, tiles: int) -> Any:
    """(like, x, words, weights, pairs, stride, out, width): x [rows, 2 x pairs] times ``tiles`` tiles of 16 outputs.

    Rows of ``x`` are ``words`` times 4 bytes apart. They are ``like``: bfloat16 (where MULTIPLIES_PAIRS) or float32,
    with bfloat16 weights; or int16 (where MULTIPLIES_SHORTS), with int8 weights: [tiles / 2, pairs, 2, 16, 2]. A tile
    has ``stride`` bytes, rows of ``out``, float32, ``width`` numbers. Sums of int16 are added to what ``out`` has.
    """

    def generate(b: ir.IRBuilder, like: Any, *arguments: Any) -> None:
        x, words, weights, pairs, stride, out, width = arguments
        short = like == types.int16
        octets, kind = (32, _BYTES) if short else (64, _WORDS)
        zero = _all(_WORDS, 0) if short else _NOTHING

        def body(k: Any, totals: list[Any]) -> list[Any]:
            loaded = []
            for tile in range(tiles):
                start = b.add(weights, _long(tile % 2 * octets))
                address = _address(b, start, (stride, tile - tile % 2), (k, 2 * octets))
                loaded.append(_load(b, address, kind, octets))
                if not (short and tile % 2):
                    _fetch(b, address, once=True)
            multiplied = _MULTIPLIED[like](b, loaded)
            results = []
            for row in range(rows):
                address = _address(b, x, (words, 4 * row), (k, 8 if like == types.float32 else 4))
                results += multiplied(address, totals[row * tiles : (row + 1) * tiles])
            return results

        for place, total in enumerate(_loop(b, pairs, [zero] * (rows * tiles), body)):
            row, tile = divmod(place, tiles)
            to = b.add(_address(b, out, (width, 4 * row)), _long(4 * WIDTH * tile))
            _store(b, b.fadd(_load(b, to, _FLOATS), b.sitofp(total, _FLOATS)) if short else total, to)

    return _intrinsic(7, generate)


def _fetch(b: ir.IRBuilder, address: Any, *, once: bool) -> None:
    """Ask memory for a line; ``once``: the caches need not keep it, they have code and keys, of other nodes too."""
    octets = ir.IntType(8).as_pointer()
    prefetch = _function(b, "llvm.prefetch.p0", ir.VoidType(), [octets, _WORD, _WORD, _WORD])
    hints = [ir.Constant(_WORD, value) for value in (0, 0 if once else 3, 1)]
    b.call(prefetch, [b.inttoptr(address, octets), *hints])


def _fetch_line(b: ir.IRBuilder, _: Any, address: Any) -> None:
    _fetch(b, address, once=False)


fetch = _intrinsic(1, _fetch_line)
"""(like, address): ask memory for the 64 bytes there, which are needed soon."""


def _meet(b: ir.IRBuilder, _: Any, barrier: Any, team: Any) -> None:
    """A central barrier with a generation count: the last to come opens it for the others, who spin, and then yield."""
    after = b.append_basic_block("after")
    alone = b.icmp_signed("<=", team, _long(1))
    come, last = b.append_basic_block("come"), b.append_basic_block("last")
    b.cbranch(alone, after, come)
    b.position_at_end(come)
    waiting = b.inttoptr(barrier, _LONG.as_pointer())
    generation = b.inttoptr(b.add(barrier, _long(_LINE_BYTES)), _LONG.as_pointer())
    seen = b.load_atomic(generation, "acquire", 8)
    before = b.atomic_rmw("add", waiting, _long(1), "acq_rel")
    wait = b.append_basic_block("wait")
    b.cbranch(b.icmp_signed("==", before, b.sub(team, _long(1))), last, wait)
    b.position_at_end(last)
    b.store_atomic(_long(0), waiting, "monotonic", 8)
    b.atomic_rmw("add", generation, _long(1), "release")
    b.branch(after)
    b.position_at_end(wait)
    spins = b.phi(_LONG)
    spins.add_incoming(_long(0), come)
    following = b.add(spins, _long(1))
    _breathe(b, b.icmp_signed(">", spins, _long(_SPINS)))
    spins.add_incoming(following, b.block)
    opened = b.icmp_signed("!=", b.load_atomic(generation, "acquire", 8), seen)
    b.cbranch(opened, after, wait)
    b.position_at_end(after)


def _breathe(b: ir.IRBuilder, long_enough: Any) -> None:
    """Let the core's other thread go first, or another process if this took ``long_enough``."""
    if platform.machine() in {"x86_64", "AMD64"}:
        b.call(_function(b, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
    if os.name == "posix":
        with b.if_then(long_enough, likely=False):
            b.call(_function(b, "sched_yield", _WORD, []), [])


meet = _intrinsic(2, _meet)
"""(like, barrier, team): wait until all threads of the team have come. ``barrier``: BARRIER_BYTES, zero at first."""


Multiplied = Callable[[Any, list[Any]], list[Any]]
"""Adds one row's next two numbers, at an address, times the loaded weights to its sums."""


def _by_pairs(b: ir.IRBuilder, loaded: list[Any]) -> Multiplied:
    multiply = "llvm.x86.avx512bf16.dpbf16ps.512"
    weights = [b.bitcast(words, _PAIRS) for words in loaded]

    def multiplied(address: Any, totals: list[Any]) -> list[Any]:
        pair = b.bitcast(_spread(b, _load(b, address, _WORD)), _PAIRS)
        dot = _function(b, multiply, _FLOATS, [_FLOATS, _PAIRS, _PAIRS])
        return [b.call(dot, [total, pair, weight]) for total, weight in zip(totals, weights, strict=True)]

    return multiplied


def _by_singles(b: ir.IRBuilder, loaded: list[Any]) -> Multiplied:
    even = [b.bitcast(b.shl(words, _all(_WORDS, 16)), _FLOATS) for words in loaded]
    odd = [b.bitcast(b.and_(words, _all(_WORDS, 0xFFFF0000)), _FLOATS) for words in loaded]

    def multiplied(address: Any, totals: list[Any]) -> list[Any]:
        first = _spread(b, _load(b, address, _FLOAT))
        second = _spread(b, _load(b, b.add(address, _long(4)), _FLOAT))
        sums = [_fused(b, first, weight, total) for weight, total in zip(even, totals, strict=True)]
        return [_fused(b, second, weight, total) for weight, total in zip(odd, sums, strict=True)]

    return multiplied


def _by_shorts(b: ir.IRBuilder, loaded: list[Any]) -> Multiplied:
    weights = [b.bitcast(b.sext(octets, _MANY_SHORTS), _WORDS) for octets in loaded]

    def multiplied(address: Any, totals: list[Any]) -> list[Any]:
        pair = _spread(b, _load(b, address, _WORD))
        dot = _function(b, "llvm.x86.avx512.vpdpwssd.512", _WORDS, [_WORDS] * 3)
        return [b.call(dot, [total, pair, weight]) for total, weight in zip(totals, weights, strict=True)]

    return multiplied


_MULTIPLIED = {types.uint16: _by_pairs, types.float32: _by_singles, types.int16: _by_shorts}


def dot_products(queries: int, tokens: int) -> Any:
    """(like, queries, keys, parts, out, width): queries [.., 16 x parts] times as long keys: out [queries, tokens].

    Keys are ``like``: bfloat16 or float32; the others are float32. Rows of ``out`` are ``width`` numbers apart.
    """

    def generate(b: ir.IRBuilder, like: Any, *arguments: Any) -> None:
        query, keys, parts, out, width = arguments
        is_half = like == types.uint16
        octets = WIDTH * (2 if is_half else 4)

        def body(part: Any, totals: list[Any]) -> list[Any]:
            loaded = [
                _widened(b, _address(b, keys, (parts, octets * token), (part, octets)), is_half)
                for token in range(tokens)
            ]
            results = []
            for row in range(queries):
                own = _load(b, _address(b, query, (parts, WIDTH * 4 * row), (part, WIDTH * 4)), _FLOATS)
                results += [_fused(b, own, loaded[t], totals[row * tokens + t]) for t in range(tokens)]
            return results

        for place, total in enumerate(_loop(b, parts, [_NOTHING] * (queries * tokens), body)):
            row, token = divmod(place, tokens)
            _store(b, _sum(b, total), b.add(_address(b, out, (width, 4 * row)), _long(4 * token)))

    return _intrinsic(5, generate)


def weighted_sums(queries: int, parts: int) -> Any:
    """(like, weights, width, values, dim, tokens, out, ahead): for each query, the sum over tokens of weight x value.

    For 16 x ``parts`` columns of values [tokens, dim], which are ``like``: bfloat16 or float32; the others are float32.
    Rows of weights [queries, tokens] are ``width`` numbers apart, those of ``out`` ``dim`` numbers. What lies at
    ``ahead`` as the values lie is needed next.
    """

    def generate(b: ir.IRBuilder, like: Any, *arguments: Any) -> None:
        weights, width, values, dim, tokens, out, ahead = arguments
        is_half = like == types.uint16
        size = 2 if is_half else 4

        def body(token: Any, totals: list[Any]) -> list[Any]:
            place = b.mul(token, b.mul(dim, _long(size)))
            for line in range(0, parts * WIDTH * size, 64):
                _fetch(b, b.add(b.add(ahead, place), _long(line)), once=False)
            start = b.add(values, place)
            loaded = [_widened(b, b.add(start, _long(WIDTH * size * part)), is_half) for part in range(parts)]
            results = []
            for row in range(queries):
                weight = _spread(b, _load(b, _address(b, weights, (width, 4 * row), (token, 4)), _FLOAT))
                results += [_fused(b, weight, loaded[p], totals[row * parts + p]) for p in range(parts)]
            return results

        for place, total in enumerate(_loop(b, tokens, [_NOTHING] * (queries * parts), body)):
            row, part = divmod(place, parts)
            _store(b, total, b.add(_address(b, out, (dim, 4 * row)), _long(4 * WIDTH * part)))

    return _intrinsic(7, generate)
