#!/usr/bin/env python3
"""Compare quantised weights with the same model unquantised: decoding speed through the Engine, and perplexity.

Speed: all variants take turns in one process, one engine each; printed are the ratios of each round to the
unquantised variant of that round. Perplexity: the text of Python's own licence, in chunks of 512 tokens, through
the Stage. The default model's weights were Q4_1 before they were bfloat16, so its int4 perplexity is no evidence
of what four bits do to other models.
"""

from __future__ import annotations

import argparse
import asyncio
import builtins
import json
import math
import platform
import site  # noqa: F401  (defines builtins.license)
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from swarm.config import EngineSettings
from swarm.engine.attention import ATTENTION, Segment
from swarm.engine.ends import Ends
from swarm.engine.jobs import EmbedJob, SampleJob, StepJob
from swarm.engine.params import SamplingParams
from swarm.engine.sampling import Sampler
from swarm.engine.stage import Stage
from swarm.engine.worker import Engine
from swarm.models.architecture import torch_dtype
from swarm.models.ends import load_ends
from swarm.models.loader import load_span
from swarm.models.store import LocalModel, ModelStore
from swarm.models.tokenizer import ChatTokenizer
from swarm.types import LayerSpan

CHUNK = 512
PROMPT = list(range(100, 145))
MODES = ("none", "int8", "int4")


@dataclass(frozen=True)
class Variant:
    """One way to hold the weights."""

    quantize: str
    second_copy: bool
    quantized_head: bool = False

    @property
    def name(self) -> str:
        copies = "2 copies" if self.second_copy else "1 copy"
        return f"{self.quantize}, {copies}" + (", head too" if self.quantized_head else "")


@dataclass
class Speed:
    """Tokens per second of one variant, one figure a round, by number of streams."""

    variant: Variant
    rates: dict[int, list[float]] = field(default_factory=dict)


class Runner:
    """One engine that holds the whole model in one variant."""

    def __init__(self, local: LocalModel, dtype: str, variant: Variant, threads: int) -> None:
        copies = {} if variant.second_copy else {"second_copy_bytes": 0}
        self._engine = Engine(EngineSettings(threads=threads, kv_bytes=1 << 28, **copies))
        self._local = local
        self._dtype = dtype
        self._variant = variant
        self._span = LayerSpan(0, local.spec.layers)
        self._results: AsyncIterator[list[Any]] = self._engine.results()

    async def start(self) -> None:
        self._engine.start()
        stage = await self._engine.load_span(self._local, self._span, self._dtype, self._variant.quantize)
        await self._engine.load_ends(self._local, self._dtype)
        print(f"{self._variant.name}: {stage.weight_bytes / 1e6:.0f} MB of layers", file=sys.stderr)

    async def aclose(self) -> None:
        await self._engine.aclose()

    async def rate(self, streams: int, tokens: int) -> float:
        """Decode ``tokens`` for each of ``streams`` together; return tokens per second after the first."""
        samplers = [Sampler(SamplingParams(temperature=0.0)) for _ in range(streams)]
        for stream in range(streams):
            self._engine.open(stream, self._local.id, self._span, len(PROMPT) + tokens)
        embeds = [EmbedJob(self._local.id, PROMPT, self._dtype, stream) for stream in range(streams)]
        hidden = [result.hidden for result in await self._ask(embeds)]
        position, count, began = 0, len(PROMPT), 0.0
        for token in range(tokens):
            steps = [
                StepJob(stream, position, count, rows, self._dtype, "last", stream)
                for stream, rows in enumerate(hidden)
            ]
            outs = await self._ask(steps)
            samples = [
                SampleJob(self._local.id, samplers[stream], out.hidden, self._dtype, tag=stream)
                for stream, out in enumerate(outs)
            ]
            hidden = [result.next_hidden for result in await self._ask(samples)]
            position, count = position + count, 1
            if token == 0:
                began = time.perf_counter()
        seconds = time.perf_counter() - began
        for stream in range(streams):
            self._engine.close(stream)
        return streams * (tokens - 1) / seconds

    async def _ask(self, jobs: Sequence[Any]) -> list[Any]:
        for job in jobs:
            self._engine.submit(job)
        found: dict[object, Any] = {}
        while len(found) < len(jobs):
            for result in await anext(self._results):
                if result.error is not None:
                    raise SystemExit(f"the engine failed: {result.error}")
                found[result.tag] = result
        return [found[tag] for tag in range(len(jobs))]


async def measure_speed(local: LocalModel, options: argparse.Namespace) -> list[Speed]:
    variants = [Variant(mode, copies) for copies in (False, True) for mode in MODES]
    runners = [Runner(local, options.dtype, variant, options.threads) for variant in variants]
    for runner in runners:
        await runner.start()
    speeds = [Speed(variant, {streams: [] for streams in options.streams}) for variant in variants]
    for _ in range(options.rounds):
        for streams in options.streams:
            for speed, runner in zip(speeds, runners, strict=True):
                speed.rates[streams].append(await runner.rate(streams, options.tokens))
    for runner in runners:
        await runner.aclose()
    return speeds


def perplexity(local: LocalModel, dtype: str, variant: Variant, ids: Sequence[int], at_once: int) -> float:
    """Return e to the mean loss of each token after the first of its chunk; ``at_once`` tokens go through in one pass.

    With few of them these are the products of decode steps, else those of prompts.
    """
    span = LayerSpan(0, local.spec.layers)
    base = load_span(local.folder, span, dtype, attention=ATTENTION)
    stage = Stage(base, span, torch_dtype(dtype), "cpu", 0, quantize=variant.quantize)
    head = variant.quantize if variant.quantized_head else "none"
    ends = Ends(load_ends(local.folder, dtype), torch_dtype(dtype), "cpu", quantize=head)
    losses = []
    for start in range(0, len(ids) - 1, CHUNK):
        chunk = ids[start : start + CHUNK]
        kv = stage.new_kv(span, len(chunk))
        passes = []
        for first in range(0, len(chunk), at_once):
            some = chunk[first : first + at_once]
            segment = Segment(0, len(some), first, kv.append_views(len(some)), kv.tokens)
            passes.append(ends.logits(stage.forward(span, ends.embed(some), [segment])))
        logits = torch.cat(passes)[:-1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(chunk[1:]), reduction="none"))
    return math.exp(float(torch.cat(losses).double().mean()))


def licence() -> str:
    """Return the text of Python's licence, which every Python brings along."""
    printer: Any = builtins.license
    printer._Printer__setup()
    text = "\n".join(printer._Printer__lines)
    if len(text) < 5000:
        raise SystemExit("this Python has no licence text; name another with --text")
    return text


def measure_perplexity(local: LocalModel, dtype: str, text: str, most: int, at_once: int) -> dict[str, float]:
    ids = ChatTokenizer.load(local.folder).encode(text, special=False)[:most]
    print(f"perplexity of {len(ids)} tokens in chunks of {CHUNK}, {at_once} at once", file=sys.stderr)
    variants = [Variant(mode, False) for mode in MODES]
    variants += [Variant(mode, False, quantized_head=True) for mode in MODES[1:]]
    with torch.inference_mode():
        return {variant.name: perplexity(local, dtype, variant, ids, at_once) for variant in variants}


def show(speeds: Sequence[Speed], perplexities: dict[str, float]) -> None:
    for speed in speeds:
        own = next(
            s for s in speeds if s.variant == Variant("none", speed.variant.second_copy)
        )  # same memory rule
        for streams, rates in speed.rates.items():
            ratios = [rate / base for rate, base in zip(rates, own.rates[streams], strict=True)]
            low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
            print(f"{speed.variant.name:18} {streams:2} streams  {statistics.median(rates):7.1f} tok/s  "
                  f"x {low:.2f} {middle:.2f} {high:.2f} (min median max of {len(ratios)})")  # fmt: skip
    first = next(iter(perplexities.values()), math.nan)
    for name, value in perplexities.items():
        print(f"{name:28} perplexity {value:.4f}  {100 * (value / first - 1):+.2f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="at least 3 for figures to be told to others")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--text", type=Path, help="instead of Python's licence")
    parser.add_argument("--text-tokens", type=int, default=1 << 20, help="use no more of the text")
    parser.add_argument("--at-once", type=int, default=CHUNK, help="tokens of the text in one pass")
    parser.add_argument("--skip", choices=["speed", "perplexity"])
    parser.add_argument("--json", type=Path, help="also write all samples to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    local = ModelStore().find(options.model)
    if local is None:
        raise SystemExit(f"{options.model} is not on disk; scripts/demo obtains it")
    speeds = [] if options.skip == "speed" else asyncio.run(measure_speed(local, options))
    perplexities = {}
    if options.skip != "perplexity":
        text = options.text.read_text(encoding="utf-8") if options.text else licence()
        perplexities = measure_perplexity(local, options.dtype, text, options.text_tokens, options.at_once)
    print(f"{options.model} {options.dtype}, {options.threads} threads, torch {torch.__version__}")
    show(speeds, perplexities)
    if options.json:
        facts = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        samples = {"speeds": [asdict(speed) for speed in speeds], "perplexities": perplexities}
        options.json.write_text(json.dumps({**facts, **samples}), encoding="utf-8")


if __name__ == "__main__":
    main()
