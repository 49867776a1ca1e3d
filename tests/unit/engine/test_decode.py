"""Decode steps by compiled kernels against the same computed by torch: alone, and as a span of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from swarm.engine.attention import ATTENTION, Segment
from swarm.engine.decode import MAX_ROWS
from swarm.engine.kv_pool import SequenceKV
from swarm.engine.stage import Stage
from swarm.models.loader import load_span
from swarm.types import LayerSpan
from tests.support.models import random_model

compiled = pytest.importorskip("swarm.engine.compiled")

LIKE = {torch.float32: np.empty(0, np.float32), torch.bfloat16: np.empty(0, np.uint16)}
ALLOWED = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
HEADS, GROUPS, DIM = 6, 2, 16
SIZE = 48


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


@pytest.mark.parametrize("dtype", LIKE)
@pytest.mark.parametrize("normed", [False, True])
def test_each_row_attends_to_its_own_sequence_from_its_first_slot_on(
    dtype: torch.dtype, normed: bool
) -> None:
    torch.manual_seed(1)
    places = [(0, 0), (0, 6), (5, 9), (0, 30)]  # first slot and own slot of each row
    slabs = [torch.randn(4, 1, GROUPS, 40, DIM).to(dtype) for _ in places]
    qkv = torch.randn(len(places), (HEADS + 2 * GROUPS) * DIM).to(dtype)
    cos, sin = torch.randn(2, 64, DIM)
    norms = torch.rand(2, DIM) + 0.5
    positions = [own + 20 for _, own in places]
    wanted = []
    heads = qkv.float().view(len(places), -1, DIM)
    for row, ((first, own), slab) in enumerate(zip(places, slabs, strict=True)):
        query, key, value = heads[row].split([HEADS, GROUPS, GROUPS])
        if normed:
            query = functional.rms_norm(query, (DIM,), norms[0], 1e-5)
            key = functional.rms_norm(key, (DIM,), norms[1], 1e-5)
        query, key = (rotated(x, cos[positions[row]], sin[positions[row]]) for x in (query, key))
        keys, values = slab[2, 0].float().clone(), slab[3, 0].float().clone()
        keys[:, own], values[:, own] = key.to(dtype).float(), value
        wanted.append(
            functional.scaled_dot_product_attention(
                query[None, :, None], keys[None, :, first : own + 1], values[None, :, first : own + 1],
                scale=0.3, enable_gqa=True,
            ).flatten()
        )  # fmt: skip
    table = np.array(
        [
            (slab.data_ptr(), slab.stride(0), slab.stride(2), first, own, position)
            for slab, (first, own), position in zip(slabs, places, positions, strict=True)
        ],
        dtype=np.int64,
    )
    out = torch.empty(len(places), HEADS * DIM, dtype=dtype)
    compiled.attend(
        qkv.data_ptr(), LIKE[dtype], out.data_ptr(), LIKE[dtype], LIKE[dtype], table, 1, (HEADS, GROUPS, DIM),
        (cos.data_ptr(), sin.data_ptr()), (norms[0].data_ptr(), norms[1].data_ptr()) if normed else (0, 0), 1e-5, 0.3,
        np.empty(1000, np.float32),
    )  # fmt: skip
    torch.testing.assert_close(out.float(), torch.stack(wanted), atol=ALLOWED[dtype], rtol=ALLOWED[dtype])


@pytest.mark.parametrize("dtype", LIKE)
def test_sums_norms_and_gates_are_torchs(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    residual, added = torch.randn(3, SIZE) * 4, torch.randn(3, SIZE).to(dtype)
    weight, out = torch.rand(SIZE) + 0.5, torch.empty(3, SIZE, dtype=dtype)
    total = residual + added.float()
    compiled.add_norm(
        residual.data_ptr(), added.data_ptr(), LIKE[dtype], weight.data_ptr(), out.data_ptr(), LIKE[dtype], 3, SIZE,
        1e-5,
    )  # fmt: skip
    torch.testing.assert_close(residual, total)
    close = {"atol": ALLOWED[dtype], "rtol": ALLOWED[dtype]}
    torch.testing.assert_close(out.float(), functional.rms_norm(total, (SIZE,), weight, 1e-5), **close)
    both, gated = torch.randn(3, 2 * SIZE).mul(20).to(dtype), torch.empty(3, SIZE, dtype=dtype)
    compiled.gate(both.data_ptr(), LIKE[dtype], gated.data_ptr(), LIKE[dtype], 3, SIZE)
    gates, ups = both.float().chunk(2, -1)
    torch.testing.assert_close(gated.float(), functional.silu(gates) * ups, **close)


@pytest.mark.parametrize(
    ("family", "changes"),
    [("llama", {}), ("qwen3", {}), ("mistral", {"sliding_window": 8})],
)
def test_a_span_decodes_as_transformers_does_and_leaves_prompts_to_it(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    local = random_model(family, changes, tmp_path / family).local
    span = LayerSpan(0, local.spec.layers)
    with torch.inference_mode():
        stage = Stage(
            load_span(local.folder, span, "float32", attention=ATTENTION), span, torch.float32, "cpu"
        )
        fast = stage._compiled
        assert fast is not None
        torch.manual_seed(3)
        lengths = [3, 21, 11]
        kvs = [[stage.new_kv(span, 40) for _ in lengths] for _ in range(2)]
        for kv_of in kvs:
            torch.manual_seed(4)
            for kv, length in zip(kv_of, lengths, strict=True):
                prompt = segments_of([kv], [length])
                assert fast.takes(prompt) == (length <= 16)
                stage._compiled = None
                stage.forward(span, torch.randn(length, stage.hidden_size), prompt)
        part = LayerSpan(1, span.end)
        for counts in ([1, 1, 1], [3, 1, 5], [1, 1, 1]):
            hidden = torch.randn(sum(counts), stage.hidden_size)
            outs = []
            for kv_of, which in zip(kvs, (fast, None), strict=True):
                stage._compiled = which
                outs.append(stage.forward(span, hidden, segments_of(kv_of, counts)))
            torch.testing.assert_close(outs[0], outs[1], atol=2e-4, rtol=2e-4)
        stage._compiled = fast
        lone = stage.new_kv(part, 4)
        broken = torch.full((1, stage.hidden_size), float("nan"))
        assert not stage.forward(part, broken, segments_of([lone], [1])).isfinite().any()
        many = segments_of([stage.new_kv(span, 16) for _ in range(MAX_ROWS // 16 + 1)], [16] * 5)
        assert not fast.takes(many)


def segments_of(kvs: list[SequenceKV], counts: list[int]) -> list[Segment]:
    segments, start = [], 0
    for kv, count in zip(kvs, counts, strict=True):
        segments.append(Segment(start, count, kv.length, kv.append_views(count), kv.tokens))
        start += count
    return segments
