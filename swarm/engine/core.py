"""What the compute thread does: it owns all tensors and turns jobs into results, one batch at a time.

Knows no thread, no event loop and no socket; `worker` runs it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from swarm.engine.attention import Segment
from swarm.engine.cohorts import Cohorts
from swarm.engine.ends import Ends
from swarm.engine.jobs import (
    EmbedJob,
    EmbedResult,
    SampleJob,
    SampleResult,
    SequenceKey,
    StepJob,
    StepResult,
)
from swarm.engine.sampling import sample_rows
from swarm.engine.scheduler import DECODE_ROWS, Scheduler, Waiting
from swarm.engine.stage import OpenSequence, Stage
from swarm.engine.tensors import all_finite, check_payload, pack_rows, row_bytes
from swarm.errors import BadTensorError, EngineError
from swarm.types import LayerSpan, ModelId

Result: TypeAlias = StepResult | EmbedResult | SampleResult
StageKey: TypeAlias = tuple[ModelId, LayerSpan]


@dataclass(slots=True)
class Counters:
    """Totals since the start, read by other threads: each field is replaced whole."""

    steps: int = 0
    rows: int = 0
    busy_seconds: float = 0.0


class ComputeCore:
    """Stages, ends and sequences of one process. Every method runs on the compute thread."""

    def __init__(self, token_budget: int) -> None:
        self.stages: dict[StageKey, Stage] = {}
        self.ends: dict[ModelId, Ends] = {}
        self.counters = Counters()
        self._sequences: dict[SequenceKey, tuple[StageKey, OpenSequence]] = {}
        self._scheduler = Scheduler(token_budget)
        self._cohorts = Cohorts()
        self._embeds: list[EmbedJob] = []
        self._samples: list[SampleJob] = []
        self._failed: list[Result] = []

    @property
    def queued(self) -> int:
        return len(self._scheduler) + len(self._embeds) + len(self._samples)

    def has_work(self) -> bool:
        return bool(self.queued or self._failed)

    def patience(self, now: float) -> float:
        """Return for how many seconds it pays to wait for more steps before the next batch."""
        if self._samples or self._embeds or self._failed or not len(self._scheduler):
            return 0.0
        return self._cohorts.patience(now)

    def open(self, key: SequenceKey, stage: StageKey, part: LayerSpan, tokens: int, asked: int) -> None:
        """Begin an empty sequence of at most ``tokens``; ``asked`` is what it was opened for, unrounded."""
        self._open(key, stage, part, tokens, asked)

    def _open(
        self, key: SequenceKey, stage: StageKey, part: LayerSpan, tokens: int, asked: int
    ) -> OpenSequence:
        self.close(key)
        sequence = OpenSequence(part, tokens, asked)
        self._sequences[key] = (stage, sequence)
        return sequence

    def keep(self, key: SequenceKey, kept: SequenceKey, tokens: int) -> None:
        """End a sequence, but keep its first ``tokens`` tokens as ``kept``."""
        known = self._sequences.get(key)
        if known is not None and known[1].kv is not None:
            known[1].kv.truncate(tokens)
            self._sequences[kept] = self._sequences.pop(key)
        self.close(key)

    def open_from(
        self, key: SequenceKey, source: SequenceKey, tokens: int, asked: int, *, length: int, take_over: bool
    ) -> None:
        """Begin a sequence with the first ``length`` tokens of a kept one, which ends if it is taken over."""
        stage, kept = self._sequences[source]
        sequence = self._open(key, stage, kept.part, tokens, asked)
        if take_over:
            sequence.kv = self._sequences.pop(source)[1].kv
            if sequence.kv is not None:
                sequence.kv.truncate(length)
        elif kept.kv is not None:
            sequence.kv = self.stages[stage].new_kv(kept.part, tokens)
            sequence.kv.copy_beginning(kept.kv, length)

    def grow(self, key: SequenceKey, tokens: int) -> None:
        if key in self._sequences:
            sequence = self._sequences[key][1]
            sequence.tokens = max(sequence.tokens, tokens)

    def truncate(self, key: SequenceKey, length: int) -> None:
        self._scheduler.cut(key, length)

    def close(self, key: SequenceKey) -> None:
        self._sequences.pop(key, None)
        self._cohorts.ended(key)
        for waiting in self._scheduler.drop(key):
            self._failed.append(_failed_step(waiting.job, EngineError("the sequence was closed")))

    def drop_stage(self, stage: StageKey) -> None:
        """Forget a span; its sequences fail at their next step."""
        self.stages.pop(stage, None)
        for key in [key for key, (used, _) in self._sequences.items() if used == stage]:
            self.close(key)

    def submit(self, job: StepJob | EmbedJob | SampleJob, now: float) -> None:
        if isinstance(job, StepJob):
            known = self._sequences.get(job.key)
            if known is None:
                self._failed.append(_failed_step(job, EngineError("the sequence is not open")))
                return
            stage, sequence = known
            self._cohorts.returned(job.key, now)
            self._scheduler.add(job, (stage, sequence.part), job.received_at or now)
        elif isinstance(job, EmbedJob):
            self._embeds.append(job)
        else:
            self._samples.append(job)

    def run(self) -> list[Result]:
        """Do one batch and return its results: refusals, then all waiting ends, then one packed forward."""
        if self._failed:
            failed, self._failed = self._failed, []
            return failed
        began = time.perf_counter()
        results: list[Result] = []
        if self._samples or self._embeds:
            samples, self._samples = self._samples, []
            embeds, self._embeds = self._embeds, []
            results.extend(self._sample_all(samples))
            results.extend(self._embed(job) for job in embeds)
        else:
            self._apply_cuts()
            results.extend(self._step(self._scheduler.next_batch(self._cohorts.share)))
        self.counters.busy_seconds += time.perf_counter() - began
        return results

    # The ends

    def _embed(self, job: EmbedJob) -> EmbedResult:
        ends = self.ends.get(job.model)
        try:
            if ends is None:
                raise EngineError(f"the ends of {job.model} are not loaded")
            return EmbedResult(job.tag, row_bytes(ends.embed(job.tokens), job.dtype))
        except EngineError as exc:
            return EmbedResult(job.tag, b"", exc)
        except (RuntimeError, MemoryError) as exc:
            return EmbedResult(job.tag, b"", EngineError(f"embedding failed: {exc}"))

    def _sample_all(self, jobs: Sequence[SampleJob]) -> list[SampleResult]:
        results: list[SampleResult] = []
        for model in dict.fromkeys(job.model for job in jobs):
            results.extend(self._sample_model(model, [job for job in jobs if job.model == model]))
        return results

    def _sample_model(self, model: ModelId, jobs: Sequence[SampleJob]) -> list[SampleResult]:
        """One head product for all of ``jobs``."""
        began = time.perf_counter()
        ends = self.ends.get(model)
        if ends is None:
            return [_failed_sample(job, EngineError(f"the ends of {model} are not loaded")) for job in jobs]
        results: list[SampleResult] = []
        good: list[SampleJob] = []
        for job in jobs:
            try:
                check_payload(job.hidden, 1 + len(job.drafts), ends.hidden_size, job.dtype)
                good.append(job)
            except BadTensorError as exc:
                results.append(_failed_sample(job, exc))
        if not good:
            return results
        try:
            parts = [(job.hidden, 1 + len(job.drafts), job.dtype) for job in good]
            logits = ends.logits(pack_rows(parts, ends.hidden_size, ends.dtype, ends.device))
            chosen = sample_rows(logits, [job.sampler for job in good], [job.drafts for job in good])
            last = [choice[0][-1] for choice in chosen if not isinstance(choice, EngineError)]
            embedded = iter(ends.embed(last)) if last else iter(())
        except (RuntimeError, MemoryError) as exc:
            error = EngineError(f"the head failed: {exc}")
            return results + [_failed_sample(job, error) for job in good]
        for job, choice in zip(good, chosen, strict=True):
            seconds = time.perf_counter() - began
            if isinstance(choice, EngineError):
                results.append(_failed_sample(job, choice))
            else:
                tokens, logprobs = choice
                row = row_bytes(next(embedded)[None], job.dtype)
                results.append(SampleResult(job.tag, tuple(tokens), tuple(logprobs), row, seconds))
        return results

    # The layers

    def _apply_cuts(self) -> None:
        for cut in self._scheduler.due_cuts():
            sequence = self._sequences[cut.key][1] if cut.key in self._sequences else None
            if sequence is None or sequence.kv is None:
                continue
            if cut.length == 0 or cut.length >= sequence.kv.floor:
                sequence.kv.truncate(cut.length)

    def _step(self, batch: Sequence[Waiting]) -> list[StepResult]:
        """Run one packed forward for ``batch``, whose steps all use the same layers of one stage."""
        began = time.perf_counter()
        results: list[StepResult] = []
        segments: list[Segment] = []
        good: list[Waiting] = []
        rows = 0
        for waiting in batch:
            try:
                segments.append(self._segment(waiting.job, rows))
                good.append(waiting)
                rows += waiting.job.count
            except EngineError as exc:
                results.append(_failed_step(waiting.job, exc))
        if not good:
            return results
        stage_key, sequence = self._sequences[good[0].job.key]
        stage = self.stages[stage_key]
        try:
            parts = [(w.job.hidden, w.job.count, w.job.dtype) for w in good]
            packed = pack_rows(parts, stage.width_into(sequence.part), stage.dtype, stage.device)
            out = stage.forward(sequence.part, packed, segments)
            finite = bool(torch.isfinite(out).all())
            results.extend(self._answers(good, segments, out, finite, began))
        except (RuntimeError, MemoryError) as exc:
            error = EngineError(f"the layers failed: {exc}")
            results.extend(self._undo(waiting.job, error) for waiting in good)
        now = time.perf_counter()
        self._cohorts.stepped(now - began)
        self._cohorts.answered((w.job for w in good if w.job.count <= DECODE_ROWS), now)
        self.counters.steps += 1
        self.counters.rows += rows
        return results

    def _segment(self, job: StepJob, start: int) -> Segment:
        """Check ``job`` against its sequence and make room for its tokens. Raises EngineError."""
        known = self._sequences.get(job.key)
        stage = self.stages.get(known[0]) if known is not None else None
        if known is None or stage is None:
            raise EngineError("the sequence is not open")
        sequence = known[1]
        check_payload(job.hidden, job.count, stage.width_into(sequence.part), job.dtype)
        length = sequence.kv.length if sequence.kv is not None else 0
        if not 0 <= job.position <= length:
            raise EngineError(f"a step at token {job.position} of a sequence of {length}")
        if job.position + job.count > sequence.tokens:
            raise EngineError(f"{job.position + job.count} tokens exceed the {sequence.tokens} reserved")
        try:
            if sequence.kv is None:
                sequence.kv = stage.new_kv(sequence.part, sequence.tokens)
            sequence.kv.truncate(job.position)
            sequence.kv.grow(sequence.tokens)
            views = sequence.kv.append_views(job.count)
        except (RuntimeError, MemoryError) as exc:
            raise EngineError(f"no memory for the KV cache: {exc}") from exc
        return Segment(start, job.count, job.position, views, sequence.opened_for)

    def _answers(
        self,
        batch: Sequence[Waiting],
        segments: Sequence[Segment],
        out: torch.Tensor,
        finite: bool,
        began: float,
    ) -> list[StepResult]:
        """Cut the packed output into what each step asked for."""
        seconds = time.perf_counter() - began
        results = []
        for waiting, segment in zip(batch, segments, strict=True):
            job = waiting.job
            rows = out[segment.start : segment.start + segment.count]
            if not finite and not bool(torch.isfinite(rows).all()):
                results.append(self._undo(job, _not_finite(job)))
                continue
            rows = {"none": rows[:0], "last": rows[-1:], "all": rows}[job.rows]
            hidden = row_bytes(rows, job.dtype) if len(rows) else b""
            results.append(
                StepResult(
                    job.tag, job.key, job.position, len(rows), hidden, job.dtype,
                    began - waiting.since, seconds, len(out), width=out.shape[1],
                )
            )  # fmt: skip
        return results

    def _undo(self, job: StepJob, error: EngineError) -> StepResult:
        """Take the tokens of a failed step out of its sequence."""
        known = self._sequences.get(job.key)
        kv = known[1].kv if known is not None else None
        if kv is not None:
            if 0 < job.position < kv.floor:
                self.close(job.key)  # a state that can't be taken back: the origin begins again
            else:
                kv.truncate(job.position)
        return _failed_step(job, error)


def _not_finite(job: StepJob) -> BadTensorError:
    """Say whether what came was to blame, or what these layers made of it."""
    if all_finite(job.hidden, job.dtype):
        return BadTensorError("the hidden states became NaN or infinite")
    return BadTensorError("the hidden states came with NaN or infinity in them", received=True)


def _failed_step(job: StepJob, error: EngineError) -> StepResult:
    return StepResult(job.tag, job.key, job.position, 0, b"", job.dtype, 0.0, 0.0, 0, error)


def _failed_sample(job: SampleJob, error: EngineError) -> SampleResult:
    return SampleResult(job.tag, (), (), b"", 0.0, error)
