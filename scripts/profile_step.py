#!/usr/bin/env python3
"""Show where the time of an engine step goes: products, attention, norms, other operators, Python between them.

Steps run twice: as they are, and under torch's profiler, whose shares are then laid over the plain time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.profiler import ProfilerActivity, profile

from swarm.config import EngineSettings
from swarm.engine.attention import ATTENTION, Segment
from swarm.engine.ends import Ends
from swarm.engine.stage import Stage
from swarm.models.architecture import torch_dtype
from swarm.models.ends import load_ends
from swarm.models.loader import load_span
from swarm.models.store import ModelStore
from swarm.types import LayerSpan

GROUPS = {
    "products": ("_linear_pointwise", "linear_dynamic_fp16", "addmm", "mm"),
    "attention": ("scaled_dot_product", "flash_attention", "bmm", "softmax"),
    "norms": ("rms_norm", "pow", "mean", "rsqrt", "div_"),
    "copies and casts": ("copy_", "to", "cat", "empty", "clone", "contiguous"),
}


class Steps:
    """A span of the model with ``streams`` sequences of ``context`` tokens, and the model's ends."""

    def __init__(self, options: argparse.Namespace) -> None:
        local = ModelStore().find(options.model)
        if local is None:
            raise SystemExit(f"{options.model} is not on disk; scripts/demo obtains it")
        span = LayerSpan.parse(options.layers) if options.layers else LayerSpan(0, local.spec.layers)
        room = EngineSettings().second_copy_bytes
        dtype = torch_dtype(options.dtype)
        base = load_span(local.folder, span, options.dtype, attention=ATTENTION)
        self.stage = Stage(base, span, dtype, "cpu", room)
        self.ends = Ends(load_ends(local.folder, options.dtype), dtype, "cpu", room)
        self.rows = options.rows
        room_for = options.context + options.steps * 3 * options.rows + 64
        self.kvs = [self.stage.new_kv(span, room_for) for _ in range(options.streams)]
        for kv in self.kvs:
            self._forward([kv], options.context)

    def _forward(self, kvs: Sequence[Any], rows: int) -> torch.Tensor:
        segments = [
            Segment(i * rows, rows, kv.length, kv.append_views(rows), kv.tokens) for i, kv in enumerate(kvs)
        ]
        hidden = self.ends.embed([7 + i % 900 for i in range(rows * len(kvs))])
        return self.stage.forward(self.stage.span, hidden, segments)

    def run(self) -> tuple[float, float]:
        """Return the seconds of one step's layers and of its head."""
        began = time.perf_counter()
        out = self._forward(self.kvs, self.rows)
        between = time.perf_counter()
        self.ends.logits(out[:: self.rows]).argmax(-1).tolist()
        return between - began, time.perf_counter() - between


def group_of(name: str) -> str:
    bare = name.rpartition("::")[2]
    for group, parts in GROUPS.items():
        if any(bare == part or (len(part) > 4 and part in bare) for part in parts):
            return group
    return "other operators"


def shares(steps: Steps, count: int) -> tuple[dict[str, float], Any]:
    """Return each group's part of the profiled time, what is left being Python, and the profiler's table."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        began = time.perf_counter()
        for _ in range(count):
            steps.run()
        elapsed = time.perf_counter() - began
    averages = recorded.key_averages()
    parts: dict[str, float] = {}
    for entry in averages:
        group = group_of(entry.key)
        parts[group] = parts.get(group, 0.0) + entry.self_cpu_time_total / 1e6 / elapsed
    parts["Python and waiting"] = max(0.0, 1.0 - sum(parts.values()))
    return parts, averages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--layers", help="A:B, default all")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1, help="tokens of each stream in a step")
    parser.add_argument("--context", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--operators", type=int, default=0, help="also list so many operators")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        steps = Steps(options)
        for _ in range(5):
            steps.run()
        seconds = [steps.run() for _ in range(options.steps)]
        parts, averages = shares(steps, max(options.steps // 4, 3))
    for name, side in zip(("layers", "head"), zip(*seconds, strict=True), strict=True):
        low, middle, high = (1e3 * f(side) for f in (min, statistics.median, max))
        print(f"{name:20} min {low:8.2f}  median {middle:8.2f}  max {high:8.2f} ms a step")
    whole = statistics.median(sum(pair) for pair in seconds)
    for name, share in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"{name:20} {100 * share:5.1f} %  about {1e3 * share * whole:6.2f} ms")
    if options.operators:
        print(averages.table(sort_by="self_cpu_time_total", row_limit=options.operators))


if __name__ == "__main__":
    main()
