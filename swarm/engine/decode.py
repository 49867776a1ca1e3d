"""Decode steps through a span of fused layers: matrix products, and one compiled call between one and the next.

Knows nothing of queues; belongs to the compute thread. ``compiled`` has the kernels.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from swarm.engine.attention import PackedBatch, Segment
from swarm.engine.fused import FusedLayer
from swarm.engine.kernels import RmsNorm, best_for
from swarm.engine.kv_pool import Appended, KVLayout, SequenceKV
from swarm.engine.scheduler import DECODE_ROWS
from swarm.engine.tiled_step import LIKE, Reach, TiledStep, constants_of

try:
    from numba.core.errors import NumbaError

    from swarm.engine import compiled
except ImportError:  # a platform that Numba has no build for
    compiled = None  # type: ignore[assignment]
    NumbaError = RuntimeError  # type: ignore[assignment,misc]

log = logging.getLogger("swarm.engine")

MAX_ROWS = 64
"""Up to so many rows; more are a prompt's, whose attention is a matrix product worth the name."""
LONG_TOKENS = 1024
"""With several threads, rows that look at so many tokens leave attention to torch, which shares it among them."""
_ROTATION_TOKENS = 1024
_CHECK_CONTEXT = 40
_CHECK_STEPS = (1, 3)
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2}
"""Largest difference of a layer's results, by the root of their mean square. Layers exist (10 and 29 of the default
model) that make 1.4 % of the roundings of bfloat16, and more at single places."""


class _Rotation:
    """cos and sin by position, float32, as the family's own rotary embedding gives them in the model's dtype."""

    def __init__(self, rotary: nn.Module, like: torch.Tensor) -> None:
        self._rotary = rotary
        self._like = like
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None
        self.addresses = (0, 0)

    def reach(self, positions: int) -> None:
        """Have the first ``positions`` ready."""
        if self._tables is not None and len(self._tables[0]) >= positions:
            return
        count = -(-positions // _ROTATION_TOKENS) * _ROTATION_TOKENS
        cos, sin = self._rotary(self._like, torch.arange(count)[None])
        self._tables = (cos[0].float().contiguous(), sin[0].float().contiguous())
        self.addresses = (self._tables[0].data_ptr(), self._tables[1].data_ptr())


@dataclass(slots=True)
class _Buffer:
    """[rows, size] between two products: in float32 and in the model's dtype, whichever the next product takes."""

    single: torch.Tensor
    own: torch.Tensor

    def of(self, single: bool) -> torch.Tensor:
        return self.single if single else self.own


class _Workspace:
    """What a step of so many rows writes on, made once."""

    def __init__(self, rows: int, layer: FusedLayer, hidden_size: int, dtype: torch.dtype) -> None:
        def buffer(size: int) -> _Buffer:
            single = torch.empty(rows, size)
            return _Buffer(single, single if dtype == torch.float32 else torch.empty(rows, size, dtype=dtype))

        self.residual = torch.empty(rows, hidden_size)
        self.normed = buffer(hidden_size)
        self.mixed = buffer(layer.heads * layer.dim)
        self.gated = buffer(layer.inner)


class _Layer:
    """One layer's products for one number of rows, and what its kernels are told."""

    def __init__(self, layer: FusedLayer, rows: int) -> None:
        products = [best_for(kernel, rows) for kernel in layer.products]
        (self.qkv, self.qkv_single), (self.out, self.out_single) = products[:2]
        (self.gate_up, self.gate_up_single), (self.down, self.down_single) = products[2:]


class CompiledSpan:
    """The layers of a span. ``proved`` makes one only where it gives what transformers' own forward gives."""

    def __init__(
        self, layers: Sequence[FusedLayer], rotary: nn.Module, hidden_size: int, dtype: torch.dtype
    ) -> None:
        self._layers = layers
        self._hidden_size = hidden_size
        self._dtype = dtype
        self._rotation = _Rotation(rotary, torch.zeros(1, 1, hidden_size, dtype=dtype))
        self._constants = [constants_of(layer) for layer in layers]
        self._workspaces: dict[int, tuple[_Workspace, list[_Layer]]] = {}
        self._scratch = np.empty(0, np.float32)
        self._tiled = TiledStep(layers, self._constants, hidden_size, dtype)

    def takes(self, segments: Sequence[Segment]) -> bool:
        """Whether these rows are few, and none of them a prompt's."""
        rows = 0
        longest = 0
        for segment in segments:
            if segment.count > DECODE_ROWS or not isinstance(segment.views, Appended):
                return False
            rows += segment.count
            longest = max(longest, segment.position)
        return rows <= MAX_ROWS and (longest < LONG_TOKENS or torch.get_num_threads() == 1)

    def forward(
        self, hidden: torch.Tensor, segments: Sequence[Segment], first: int, layout: KVLayout
    ) -> torch.Tensor:
        """Run rows [rows, hidden] through the layers of ``layout``, the first of which is layer ``first`` here."""
        places = _places(layout)
        return self.run(hidden, segments, [(first + at, places[at]) for at in range(len(layout.layers))])

    def run(
        self,
        hidden: torch.Tensor,
        segments: Sequence[Segment],
        numbers: Sequence[tuple[int, tuple[int, int]]],
    ) -> torch.Tensor:
        """Run rows through the numbered layers, each of which keeps its keys and values in (slab, index)."""
        tables, longest = _tables(segments)
        self._rotation.reach(longest)
        out = torch.empty_like(hidden)
        if len(hidden) <= self._tiled.max_rows:
            self._tiled.run(hidden, out, numbers, Reach(tables, self._rotation.addresses, longest))
            return out
        workspace, layers = self._workspace(len(hidden))
        shape = self._layers[0]
        room = compiled.scratch_size(shape.heads, shape.key_heads, shape.dim, longest)
        if len(self._scratch) < room:
            self._scratch = np.empty(2 * room, np.float32)
        workspace.residual.copy_(hidden)
        last, single = out, False
        added = 0
        for number, (slab, index) in numbers:
            last, single = self._layer(
                layers[number], number, workspace, (tables[slab], index), (added, single)
            )
            added = last.data_ptr()
        compiled.add_round(
            workspace.residual.data_ptr(),
            added,
            self._like(single),
            out.data_ptr(),
            LIKE[self._dtype],
            out.numel(),
        )
        return out

    def _layer(
        self,
        products: _Layer,
        number: int,
        workspace: _Workspace,
        place: tuple[np.ndarray[Any, Any], int],
        added: tuple[int, bool],
    ) -> tuple[torch.Tensor, bool]:
        """Add what the layer before gave to the residual, compute this one but for its last sum, and return that."""
        layer, constants = self._layers[number], self._constants[number]
        rows = len(workspace.residual)
        residual = workspace.residual.data_ptr()
        like = self._like
        normed = workspace.normed.of(products.qkv_single)
        compiled.add_norm(
            residual, added[0], like(added[1]), constants.norm_in[0], normed.data_ptr(), like(products.qkv_single),
            rows, self._hidden_size, constants.norm_in[1],
        )  # fmt: skip
        qkv = products.qkv(normed)
        mixed = workspace.mixed.of(products.out_single)
        compiled.attend(
            qkv.data_ptr(), like(products.qkv_single), mixed.data_ptr(), like(products.out_single),
            LIKE[self._dtype], place[0], place[1], (layer.heads, layer.key_heads, layer.dim),
            self._rotation.addresses if constants.rotates else (0, 0), constants.norm_heads, constants.heads_eps,
            constants.scale, self._scratch,
        )  # fmt: skip
        out = products.out(mixed)
        normed = workspace.normed.of(products.gate_up_single)
        compiled.add_norm(
            residual, out.data_ptr(), like(products.out_single), constants.norm_mid[0], normed.data_ptr(),
            like(products.gate_up_single), rows, self._hidden_size, constants.norm_mid[1],
        )  # fmt: skip
        gate_up = products.gate_up(normed)
        gated = workspace.gated.of(products.down_single)
        compiled.gate(
            gate_up.data_ptr(), like(products.gate_up_single), gated.data_ptr(), like(products.down_single), rows,
            layer.inner,
        )  # fmt: skip
        return products.down(gated), products.down_single

    def _like(self, single: bool) -> np.ndarray[Any, Any]:
        return LIKE[torch.float32 if single else self._dtype]

    def _workspace(self, rows: int) -> tuple[_Workspace, list[_Layer]]:
        found = self._workspaces.get(rows)
        if found is None:
            workspace = _Workspace(rows, self._layers[0], self._hidden_size, self._dtype)
            found = self._workspaces[rows] = (workspace, [_Layer(layer, rows) for layer in self._layers])
        return found


def proved(
    base: Any, layout: KVLayout, hidden_size: int, dtype: torch.dtype, device: str
) -> CompiledSpan | None:
    """Return a compiled span of all layers of ``base``, or None where there can be none or its results differ."""
    layers = list(base.layers)
    if compiled is None or device != "cpu" or dtype not in LIKE or not all(map(_is_plain, layers)):
        return None
    if not all(kind.stored for kind in layout.layers):
        return None
    if len({(layer.heads, layer.key_heads, layer.dim, layer.inner) for layer in layers}) > 1:
        return None
    try:
        span = CompiledSpan(layers, base.rotary_emb, hidden_size, dtype)
        if _Proof(base, layout, hidden_size, dtype).holds(span):
            return CompiledSpan(
                layers, base.rotary_emb, hidden_size, dtype
            )  # the proof ran on another thread
    except (
        NumbaError,
        RuntimeError,
        TypeError,
    ) as exc:  # what can't be compiled here, or calls rotary in another way
        log.info("no compiled decode steps: %s", exc)
        return None
    log.info("no compiled decode steps: they differ from transformers' own")
    return None


class _Proof:
    """Decodes a few tokens of two sequences, each behind a prompt, in both ways and compares.

    That the span is its layers in a row, and nothing else, must hold exactly; a layer's results may differ by rounding.
    """

    def __init__(self, base: Any, layout: KVLayout, hidden_size: int, dtype: torch.dtype) -> None:
        self._base = base
        self._layout = layout
        self._dtype = dtype
        total = _CHECK_CONTEXT + sum(_CHECK_STEPS)
        wave = torch.arange(1, 2 * total * hidden_size + 1) * 0.7
        self._rows = wave.sin().view(2, total, hidden_size).to(dtype)

    def holds(self, span: CompiledSpan) -> bool:
        prompt = [self._new_kv() for _ in range(2)]
        self._by_transformers(prompt, 0, _CHECK_CONTEXT)
        start = _CHECK_CONTEXT
        for count in _CHECK_STEPS:
            kvs = [[self._copy(kv, start) for kv in prompt] for _ in range(3)]
            if not torch.equal(
                self._by_layers(kvs[0], start, count), self._by_transformers(kvs[1], start, count)
            ):
                return False
            if not self._layers_agree(span, kvs[2], prompt, start, count):
                return False
            self._by_transformers(prompt, start, count)
            start += count
        return True

    def _layers_agree(
        self, span: CompiledSpan, kvs: list[SequenceKV], prompt: list[SequenceKV], start: int, count: int
    ) -> bool:
        hidden, positions = self._step(start, count)
        segments = _segments(kvs, start, count)
        others = _segments([self._copy(kv, start) for kv in prompt], start, count)
        rotary = self._base.rotary_emb(hidden, positions)
        for number, place in enumerate(_places(self._layout)):
            wanted = self._base.layers[number](
                hidden, position_embeddings=rotary, batch=PackedBatch(others, 0)
            )
            found = span.run(hidden[0], segments, [(number, place)])
            if not _close(found, wanted[0]):
                return False
            hidden = wanted
        return True

    def _by_layers(self, kvs: Sequence[SequenceKV], start: int, count: int) -> torch.Tensor:
        hidden, positions = self._step(start, count)
        batch = PackedBatch(_segments(kvs, start, count), 0)
        rotary = self._base.rotary_emb(hidden, positions)
        for layer in self._base.layers:
            hidden = layer(hidden, position_embeddings=rotary, batch=batch)
        return hidden

    def _by_transformers(self, kvs: Sequence[SequenceKV], start: int, count: int) -> torch.Tensor:
        hidden, positions = self._step(start, count)
        out: torch.Tensor = self._base(
            inputs_embeds=hidden,
            position_ids=positions,
            use_cache=False,
            batch=PackedBatch(_segments(kvs, start, count), 0),
        ).last_hidden_state
        return out

    def _step(self, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self._rows[:, start : start + count].reshape(1, 2 * count, -1)
        return hidden, torch.arange(start, start + count).repeat(2)[None]

    def _new_kv(self) -> SequenceKV:
        return SequenceKV(self._layout, self._rows.shape[1], self._dtype, "cpu")

    def _copy(self, kv: SequenceKV, length: int) -> SequenceKV:
        copy = self._new_kv()
        copy.copy_beginning(kv, length)
        return copy


def _places(layout: KVLayout) -> list[tuple[int, int]]:
    """Return each layer's slab and its index there."""
    found = {layer: (slab, at) for slab, (_, of) in enumerate(layout.slabs) for at, layer in enumerate(of)}
    return [found[layer] for layer in range(len(layout.layers))]


def _close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    difference = float((found.float() - wanted.float()).norm())
    return difference <= _TOLERANCE[wanted.dtype] * float(wanted.float().norm())  # False for NaN


def _segments(kvs: Sequence[SequenceKV], start: int, count: int) -> list[Segment]:
    return [Segment(i * count, count, start, kv.append_views(count), kv.tokens) for i, kv in enumerate(kvs)]


def _is_plain(layer: Any) -> bool:
    return (
        isinstance(layer, FusedLayer)
        and layer.activation is nn.functional.silu
        and layer.scores.softcap is None
        and layer.scores.sinks is None
        and all(isinstance(n, RmsNorm) for n in (layer.norm_in, layer.norm_mid, *(layer.norm_heads or ())))
    )


def _tables(segments: Sequence[Segment]) -> tuple[list[np.ndarray[Any, Any]], int]:
    """Return what ``compiled.attend`` must know of each row, for each slab, and the end of the longest sequence."""
    places = [segment.views.places for segment in segments if isinstance(segment.views, Appended)]
    tables = [
        np.array(list(itertools.chain.from_iterable(of)), dtype=np.int64) for of in zip(*places, strict=True)
    ]
    return tables, max(segment.position + segment.count for segment in segments)
