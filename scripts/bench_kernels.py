#!/usr/bin/env python3
"""Compare the engine's products and steps with torch's and transformers' own, side by side in one run.

Prints for each row the rate of both (median of all samples, min and max) and their ratio. Both sides take turns, so
that what else the machine does hits both; ratios hold, absolute figures are those of this machine and hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import transformers
from torch.nn import functional

from swarm.config import EngineSettings
from swarm.engine.attention import ATTENTION, Segment
from swarm.engine.ends import Ends
from swarm.engine.jobs import EmbedJob, SampleJob, StepJob
from swarm.engine.kernels import product
from swarm.engine.params import SamplingParams
from swarm.engine.sampling import Sampler
from swarm.engine.stage import Stage
from swarm.engine.worker import Engine
from swarm.models.architecture import torch_dtype
from swarm.models.ends import load_ends
from swarm.models.loader import load_span
from swarm.models.store import LocalModel, ModelStore
from swarm.types import LayerSpan

PROMPT_TOKENS = 45


@dataclass
class Row:
    """Seconds of one thing done both ways."""

    name: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    tokens: int = 1

    def text(self) -> str:
        ours, theirs = (statistics.median(side) for side in (self.ours, self.theirs))
        spread = "  ".join(
            f"{label} {self._rate(max(side))} {self._rate(statistics.median(side))} {self._rate(min(side))}"
            for label, side in (("ours", self.ours), ("torch", self.theirs))
        )
        best = min(self.theirs) / min(self.ours)
        return f"{self.name:42} {spread}  x{theirs / ours:5.2f} (best x{best:5.2f})"

    def _rate(self, seconds: float) -> str:
        return f"{self.tokens / seconds:7.1f}"


class Stopwatch:
    """A streamer that notes when `generate` hands out each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


class Bench:
    """The default model in one dtype, whole, in the engine and in transformers."""

    def __init__(self, local: LocalModel, dtype: str, second_copy_bytes: int) -> None:
        span = LayerSpan(0, local.spec.layers)
        self.stage = Stage(
            load_span(local.folder, span, dtype, attention=ATTENTION),
            span,
            torch_dtype(dtype),
            "cpu",
            second_copy_bytes,
        )
        self.ends = Ends(load_ends(local.folder, dtype), torch_dtype(dtype), "cpu", second_copy_bytes)
        self.whole: Any = transformers.AutoModelForCausalLM.from_pretrained(
            local.folder, dtype=torch_dtype(dtype)
        )

    def ours(self, prompt: Sequence[int], streams: int, tokens: int) -> list[float]:
        """Decode ``tokens`` for each of ``streams``; return when each round of tokens was there, after the first."""
        kvs = [self.stage.new_kv(self.stage.span, len(prompt) + tokens + 1) for _ in range(streams)]
        hidden = self.ends.embed(prompt)
        firsts = []
        for kv in kvs:
            out = self.stage.forward(self.stage.span, hidden, [_segment(0, len(prompt), kv)])
            firsts.append(out[-1:])
        chosen = self.ends.logits(torch.cat(firsts)).argmax(-1).tolist()
        times = [time.perf_counter()]
        for _ in range(tokens - 1):
            segments = [_segment(index, 1, kv) for index, kv in enumerate(kvs)]
            out = self.stage.forward(self.stage.span, self.ends.embed(chosen), segments)
            chosen = self.ends.logits(out).argmax(-1).tolist()
            times.append(time.perf_counter())
        return times

    def theirs(self, prompt: Sequence[int], streams: int, tokens: int) -> list[float]:
        watch = Stopwatch()
        if streams > 1:  # streamers are refused for batches, but only by the streamer itself
            watch.put = lambda _: watch.times.append(time.perf_counter())  # type: ignore[method-assign]
        self.whole.generate(
            torch.tensor([list(prompt)] * streams),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            streamer=watch,
        )
        return watch.times[1:]


def _segment(start: int, count: int, kv: Any) -> Segment:
    return Segment(start, count, kv.length, kv.append_views(count), kv.tokens)


def gaps(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def bench_products(bench: Bench, rounds: int, second_copy: bool) -> list[Row]:
    """All fused products of the model at several row counts: packed against F.linear."""
    hidden = bench.stage.hidden_size
    config = bench.whole.config
    head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    wide = (config.num_attention_heads + 2 * config.num_key_value_heads) * head_dim
    shapes = [(wide, hidden), (hidden, hidden), (2 * config.intermediate_size, hidden)]
    shapes.append((hidden, config.intermediate_size))
    weights = [
        torch.randn(s, dtype=bench.stage.dtype) for _ in range(config.num_hidden_layers) for s in shapes
    ]
    packed = [product(weight, None, second_copy) for weight in weights]
    rows = []
    for count in (1, 4, 8, 16, 64, 512):
        row = Row(f"products, {count} rows (rows/s)", tokens=count)
        inputs = [torch.randn(1, count, weight.shape[1], dtype=weight.dtype) for weight in weights]
        for _ in range(rounds):
            row.ours.append(_timed(lambda x=inputs: [run(v) for run, v in zip(packed, x, strict=True)]))
            row.theirs.append(
                _timed(lambda x=inputs: [functional.linear(v, w) for w, v in zip(weights, x, strict=True)])
            )
        rows.append(row)
    return rows


def bench_decode(bench: Bench, streams: int, rounds: int, tokens: int = 24) -> Row:
    prompt = list(range(100, 100 + PROMPT_TOKENS))
    row = Row(f"decode, {streams} streams (tokens/s)", tokens=streams)
    for _ in range(rounds):
        row.ours.extend(gaps(bench.ours(prompt, streams, tokens)))
        row.theirs.extend(gaps(bench.theirs(prompt, streams, tokens)))
    return row


def bench_prefill(bench: Bench, count: int, rounds: int) -> Row:
    """Seconds to the first token of a prompt of ``count`` minus those of a prompt of one."""
    row = Row(f"prefill, {count} tokens (tokens/s)", tokens=count)
    long, short = [7 + i % 900 for i in range(count)], [7]
    for _ in range(rounds):
        for side, run in ((row.ours, bench.ours), (row.theirs, bench.theirs)):
            side.append(_timed(lambda r=run: r(long, 1, 1)) - _timed(lambda r=run: r(short, 1, 1)))
    return row


async def bench_engine(
    local: LocalModel, bench: Bench, dtype: str, settings: EngineSettings, rounds: int
) -> Row:
    """One stream through the compute thread's queues: what the engine's own hops cost."""
    row = Row("decode through Engine, 1 stream (tokens/s)")
    engine = Engine(settings)
    engine.start()
    span = LayerSpan(0, local.spec.layers)
    print(await engine.load_span(local, span, dtype), file=sys.stderr)
    print(await engine.load_ends(local, dtype), file=sys.stderr)
    results = engine.results()
    prompt = list(range(100, 100 + PROMPT_TOKENS))
    for attempt in range(rounds):
        engine.open(attempt, local.id, span, 128)
        engine.submit(EmbedJob(local.id, prompt, dtype))
        hidden, position, count = (await anext(results))[0].hidden, 0, len(prompt)
        sampler = Sampler(SamplingParams(temperature=0.0))
        times = []
        for _ in range(24):
            engine.submit(StepJob(attempt, position, count, hidden, dtype, "last"))
            out = (await anext(results))[0].hidden
            engine.submit(SampleJob(local.id, sampler, out, dtype))
            hidden = (await anext(results))[0].next_hidden
            position, count = position + count, 1
            times.append(time.perf_counter())
        engine.close(attempt)
        row.ours.extend(gaps(times))
        row.theirs.extend(gaps(bench.theirs(prompt, 1, 24)))
    await engine.aclose()
    return row


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=4, help="at least 3 for figures to be told to others")
    parser.add_argument("--one-copy", action="store_true", help="no second copy of the weights for few rows")
    parser.add_argument("--skip-products", action="store_true")
    parser.add_argument("--json", type=Path, help="also write all samples to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = EngineSettings(threads=options.threads)
    if options.one_copy:
        settings = replace(settings, second_copy_bytes=0)
    transformers.utils.logging.set_verbosity_error()
    local = ModelStore().find(options.model)
    if local is None:
        raise SystemExit(f"{options.model} is not on disk; scripts/demo obtains it")
    with torch.inference_mode():
        bench = Bench(local, options.dtype, settings.second_copy_bytes)
        rows = (
            []
            if options.skip_products
            else bench_products(bench, options.rounds, settings.second_copy_bytes > 0)
        )
        rows += [bench_decode(bench, streams, options.rounds) for streams in (1, 8)]
        rows.append(bench_prefill(bench, 512, options.rounds))
    rows.append(asyncio.run(bench_engine(local, bench, options.dtype, settings, options.rounds)))
    print(f"{options.model} {options.dtype}, {options.threads} threads, torch {torch.__version__}, "
          f"transformers {transformers.__version__}; rates: slowest median fastest")  # fmt: skip
    for row in rows:
        print(row.text())
    if options.json:
        facts = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        options.json.write_text(
            json.dumps({**facts, "rows": [asdict(row) for row in rows]}), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
