"""Whether a family can be split: a small random model of the same kind, in three spans and whole, must agree.

transformers' families are taken apart by one rule for all (swarm.models.loader). This check is what makes that safe
for those that nobody tried: what does not give the logits of the whole model is refused, with the reason.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedConfig

import swarm
from swarm.engine.attention import ATTENTION, Segment
from swarm.engine.ends import Ends
from swarm.engine.kv_pool import SequenceKV
from swarm.engine.stage import Stage
from swarm.errors import ModelError
from swarm.models.architecture import FOREIGN_FAILURES, load_config
from swarm.models.atomic import write_atomically
from swarm.models.ends import load_ends
from swarm.models.loader import load_span
from swarm.models.miniature import VOCABULARY, WINDOW, miniature, random_model, saved
from swarm.types import LayerSpan

log = logging.getLogger("swarm.selfcheck")

TOLERANCE = 1e-4
"""Largest difference of a float32 logit, as a share of the largest logit where that is above 1."""

_SEEDS = (1, 2, 3)
"""A near tie between experts may fall either way by rounding alone, in one model in many; never in three of three."""

_PROMPTS = ((2 * WINDOW, 4), (WINDOW - 2, 3))
"""Tokens of each sequence, and how many of them come one by one."""

_NOT_KEPT = ("_name_or_path", "transformers_version", "dtype", "architectures")


def ensure_splittable(folder: Path, checks: Path) -> None:
    """Return if the model in ``folder`` can be served in parts; what passed once is remembered in ``checks``.

    Raises ModelError with the reason if it can't.
    """
    config = load_config(folder)
    mark = checks / f"{_digest(config)}.json"
    if mark.is_file():
        return
    began = time.perf_counter()
    try:
        small = miniature(config)
        problem = _first_agreement(small)
    except FOREIGN_FAILURES as exc:
        problem = f"{type(exc).__name__}: {exc}"
    except ModelError as exc:
        problem = str(exc)
    seconds = time.perf_counter() - began
    if problem:
        raise ModelError(
            f"{folder.name}: models of type {config.model_type!r} can't be split into spans "
            f"(tried with a small random one): {problem}"
        )
    log.info(
        "a small %s model in three spans gave the logits of the whole: %.2f s", config.model_type, seconds
    )
    described = {"model_type": config.model_type, "seconds": round(seconds, 3)}
    write_atomically(mark, json.dumps(described).encode())


def _first_agreement(config: PreTrainedConfig) -> str:
    """Return an empty text once a model of ``config`` agrees with its parts, else what was wrong last."""
    problem = ""
    for seed in _SEEDS:
        with tempfile.TemporaryDirectory(prefix="swarm-check-") as name, torch.inference_mode():
            problem = _compare(config, Path(name), seed)
        if not problem:
            break
    return problem


def _compare(config: PreTrainedConfig, folder: Path, seed: int) -> str:
    model = random_model(config, seed)
    whole = saved(model, folder)
    chance = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(2, VOCABULARY, (length,), generator=chance) for length, _ in _PROMPTS]
    wanted = [whole(prompt) for prompt in prompts]
    found = _in_parts(folder, config.num_hidden_layers, prompts)
    for own, expected in zip(found, wanted, strict=True):
        if own.shape != expected.shape:
            return f"logits {[*own.shape]} instead of {[*expected.shape]}"
        difference = float((own - expected).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            return f"its logits differ from those of the whole model by {difference:.3g}"
    return ""


def _in_parts(folder: Path, layers: int, prompts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the logits of every token of each sequence: packed, in spans, first many and then one by one."""
    stages = [
        Stage(load_span(folder, span, "float32", attention=ATTENTION), span, torch.float32, "cpu")
        for span in _thirds(layers)
    ]
    ends = Ends(load_ends(folder, "float32"), torch.float32, "cpu")
    kept = [[stage.new_kv(stage.span, len(prompt)) for prompt in prompts] for stage in stages]
    rows: list[list[torch.Tensor]] = [[] for _ in prompts]
    for taken in _turns():
        packed = torch.cat([ends.embed(prompts[which][part].tolist()) for which, part in taken.items()])
        counts = [part.stop - part.start for part in taken.values()]
        for stage, sequences in zip(stages, kept, strict=True):
            packed = stage.forward(stage.span, packed, _segments([sequences[w] for w in taken], counts))
        for which, part in zip(taken, torch.split(packed, counts), strict=True):
            rows[which].append(part)
    return [ends.logits(torch.cat(parts)) for parts in rows]


def _turns() -> Iterator[dict[int, slice]]:
    """Yield which tokens of which sequence are computed together."""
    yield {which: slice(0, length - single) for which, (length, single) in enumerate(_PROMPTS)}
    for back in range(max(single for _, single in _PROMPTS), 0, -1):
        yield {
            which: slice(length - back, length - back + 1)
            for which, (length, single) in enumerate(_PROMPTS)
            if back <= single
        }


def _segments(sequences: Sequence[SequenceKV], counts: Sequence[int]) -> list[Segment]:
    starts = itertools.accumulate(counts, initial=0)
    return [
        Segment(start, count, kv.length, kv.append_views(count), kv.tokens)
        for start, count, kv in zip(starts, counts, sequences, strict=False)
    ]


def _thirds(layers: int) -> list[LayerSpan]:
    cuts = sorted({0, max(1, layers // 3), max(1, 2 * layers // 3), layers})
    return [LayerSpan(start, end) for start, end in itertools.pairwise(cuts)]


def _digest(config: PreTrainedConfig) -> str:
    """Return what names this configuration under these versions of transformers, torch and swarm."""
    described = {key: value for key, value in config.to_dict().items() if key not in _NOT_KEPT}
    versions = [transformers.__version__, torch.__version__, swarm.__version__, _own_sources()]
    text = json.dumps([versions, described], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _own_sources() -> str:
    """Return a digest of the code that takes models apart: a new swarm checks anew."""
    digest = hashlib.sha256()
    packages = [Path(__file__).parent, Path(load_span.__code__.co_filename).parent]
    for path in sorted(path for package in packages for path in package.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
