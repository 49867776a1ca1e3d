"""The compute thread as the node sees it: bytes in, bytes out, one list of results for each finished batch.

Accounting answers at once on the event-loop thread; tensors are touched only by the compute thread.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeAlias, TypeVar

import psutil
import torch

from swarm.config import MIB, EngineSettings
from swarm.engine.attention import ATTENTION
from swarm.engine.core import ComputeCore, Result, StageKey
from swarm.engine.ends import Ends
from swarm.engine.jobs import (
    EmbedJob,
    EngineStats,
    LoadedEnds,
    LoadedStage,
    SampleJob,
    SequenceKey,
    StepJob,
)
from swarm.engine.kernels import seconds_per_byte
from swarm.engine.kv_pool import KVBudget, KVLayout, floor_of
from swarm.engine.measuring import ends_seconds, stage_seconds
from swarm.engine.memory import release_freed_memory, use_huge_pages
from swarm.engine.prefix_cache import PrefixCache
from swarm.engine.selfcheck import ensure_splittable
from swarm.engine.stage import Stage
from swarm.errors import EngineError, ModelError
from swarm.models.architecture import torch_dtype
from swarm.models.ends import load_ends
from swarm.models.loader import load_span
from swarm.models.store import LocalModel, default_home
from swarm.types import LayerSpan, ModelId

_MAX_DEFAULT_KV_BYTES = 2048 * MIB
_HUGE_PAGES_FROM = 32 * MIB
"""Bytes of weights from which huge pages are worth the copying: less lies in the caches anyway."""

_HAND_OVER_SECONDS = 2e-5
"""For so long the loop lets go of the interpreter once it has given the compute thread its next jobs.

Else it goes on with the text of the token just sampled, and the thread that wakes up waits for the interpreter: 0.38 ms
from job to thread instead of 0.06 (scripts/trace_token.py), whatever the switch interval.
"""

T = TypeVar("T")
Command: TypeAlias = Callable[[ComputeCore], None]


class Engine:
    """One compute thread that owns all tensors."""

    def __init__(self, settings: EngineSettings, device: str = "cpu", *, checks: Path | None = None) -> None:
        """``checks`` is where passed self-checks are remembered; default: in swarm's own folder."""
        self._checks = checks or default_home() / "cache" / "selfcheck"
        self._settings = settings
        self._device = device
        self._budget = KVBudget(settings.kv_bytes or default_kv_bytes(), settings.block_tokens)
        self._cache = PrefixCache(self._budget, settings.prefix_share)
        self._second_copy_bytes = settings.second_copy_bytes
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._results: asyncio.Queue[list[Result] | None] = asyncio.Queue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._core = ComputeCore(settings.token_budget)
        self._layouts: dict[StageKey, KVLayout] = {}
        self._weights: dict[object, int] = {}
        self._sharing: set[StageKey] = set()
        self._retiring: set[StageKey] = set()
        self._stage_of: dict[SequenceKey, StageKey] = {}
        self._highest: dict[SequenceKey, int] = {}
        self._loading = asyncio.Lock()
        self._moving: asyncio.Task[None] | None = None
        self._move_again = False
        self._crash: BaseException | None = None
        self._deliver: Callable[[list[Result]], None] | None = None
        self._submitted: list[StepJob | EmbedJob | SampleJob] = []

    # Life

    def start(self, deliver: Callable[[list[Result]], None] | None = None) -> None:
        """Start the compute thread; must be called inside a running event loop.

        With ``deliver``, which is called on the loop, batches go there at once instead of coming out of ``results``.
        """
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        self._thread = threading.Thread(target=self._run, name="swarm-compute", daemon=True)
        self._thread.start()

    async def aclose(self) -> None:
        """Stop after the batch that is running; what still waits is dropped."""
        if self._thread is None:
            return
        self._commands.put(None)
        await asyncio.to_thread(self._thread.join)
        self._thread = None
        if self._moving is not None:
            await self._moving
        self._results.put_nowait(None)

    # Weights

    async def load_span(
        self, model: LocalModel, span: LayerSpan, dtype: str, quantize: str = "none"
    ) -> LoadedStage:
        """Read ``span``, measure it and make it usable; ``quantize`` is one of swarm.types.QUANTIZATIONS.

        Raises ModelError, EngineError for an unknown ``quantize``.
        """
        async with self._loading:
            stage = await asyncio.to_thread(self._build_stage, model, span, dtype, quantize)
            await asyncio.to_thread(release_freed_memory)
        key = (model.id, span)
        one, more = await self._call(lambda core: _install_stage(core, key, stage))
        self._layouts[key] = stage.layout
        if stage.shares_prefixes:
            self._sharing.add(key)
        self._weights[key] = stage.weight_bytes
        self._use_huge_pages()
        return LoadedStage(
            model=model.id,
            span=span,
            dtype=dtype,
            hidden_size=stage.hidden_size,
            weight_bytes=stage.weight_bytes,
            quantize=quantize,
            kv_bytes_per_token=stage.layout.bytes_per_token,
            seconds_per_layer=one / len(span),
            seconds_per_row=more / len(span),
        )

    async def measure_span(self, model: ModelId, span: LayerSpan) -> tuple[float, float] | None:
        """Measure a loaded span again: seconds per layer for one row and for each further; None: it is gone."""

        def measure(core: ComputeCore) -> tuple[float, float] | None:
            stage = core.stages.get((model, span))
            return None if stage is None else stage_seconds(stage)

        found = await self._call(measure)
        return None if found is None else (found[0] / len(span), found[1] / len(span))

    def retire_span(self, model: ModelId, span: LayerSpan) -> None:
        """Open no more sequences on ``span``, and forget what is kept of ended ones."""
        key = (model, span)
        self._retiring.add(key)
        self._end(self._cache.forget_stage(key))

    async def seconds_per_byte(self, dtype: str) -> float:
        """Return how long a product of one row takes for each byte of its weight, measured here and now."""
        return await self._call(lambda _: seconds_per_byte(torch_dtype(dtype), self._device))

    def stage_of(self, key: SequenceKey) -> StageKey | None:
        """Return the loaded span that an open sequence uses."""
        return self._stage_of.get(key)

    async def unload_span(self, model: ModelId, span: LayerSpan) -> None:
        """Forget ``span``; steps of sequences that use it fail. The caller closes those sequences."""
        key = (model, span)
        self._retiring.discard(key)
        self._end(self._cache.forget_stage(key))
        self._sharing.discard(key)
        self._layouts.pop(key, None)
        self._weights.pop(key, None)
        await self._call(lambda core: core.drop_stage(key))
        await asyncio.to_thread(release_freed_memory)

    async def load_ends(self, model: LocalModel, dtype: str) -> LoadedEnds:
        """Read embedding, norm and head, measure them and make them usable. Raises ModelError."""
        async with self._loading:
            ends = await asyncio.to_thread(self._build_ends, model, dtype)
            await asyncio.to_thread(release_freed_memory)
        seconds = await self._call(lambda core: _install_ends(core, model.id, ends))
        self._weights[model.id] = ends.weight_bytes
        self._use_huge_pages()
        return LoadedEnds(model.id, dtype, ends.weight_bytes, seconds, ends.keeps_states)

    def _use_huge_pages(self) -> None:
        """Start moving what was loaded to huge pages; again if more is loaded meanwhile."""
        self._move_again = True
        wanted = self._settings.huge_pages and sum(self._weights.values()) >= _HUGE_PAGES_FROM
        if wanted and self._device == "cpu" and self._moving is None:
            self._moving = asyncio.create_task(self._move_to_huge_pages())

    async def _move_to_huge_pages(self) -> None:
        try:
            while self._move_again:
                self._move_again = False
                await asyncio.to_thread(use_huge_pages, lambda: self._thread is not None)
        finally:
            self._moving = None

    def _build_stage(self, model: LocalModel, span: LayerSpan, dtype: str, quantize: str) -> Stage:
        ensure_splittable(model.folder, self._checks)
        with torch.inference_mode():
            base = load_span(model.folder, span, dtype, self._device, attention=ATTENTION)
            room = self._second_copy_bytes - sum(self._weights.values())
            return Stage(base, span, torch_dtype(dtype), self._device, room, quantize=quantize)

    def _build_ends(self, model: LocalModel, dtype: str) -> Ends:
        ensure_splittable(model.folder, self._checks)
        with torch.inference_mode():
            ends = load_ends(model.folder, dtype, self._device)
            room = self._second_copy_bytes - sum(self._weights.values())
            return Ends(ends, torch_dtype(dtype), self._device, room)

    def limit_memory(self, *, kv_bytes: int, second_copy_bytes: int) -> None:
        """Set the KV budget from now on, and up to how many bytes of weights the next loads may keep copies of.

        Open sequences keep what they have; kept ones make room.
        """
        self._budget.budget_bytes = kv_bytes
        self._second_copy_bytes = second_copy_bytes
        self._end(self._cache.shrink())

    # Sequences: accounting here, memory on the compute thread

    def open(
        self,
        key: SequenceKey,
        model: ModelId,
        span: LayerSpan,
        kv_tokens: int,
        *,
        scope: Hashable = None,
        blocks: Sequence[bytes] = (),
    ) -> int:
        """Reserve room for a new sequence through ``span``; an open one of that key is closed first.

        ``span`` may be part of a loaded span. ``blocks`` name the sequence's leading blocks within ``scope``; the
        result is how many leading tokens are there already, from a sequence that was closed with equal names.
        Raises ModelError when no loaded span covers it, KVFullError.
        """
        stage = self._stage_for(model, span)
        layout = self._layouts[stage].part(span.start - stage[1].start, len(span))
        self.close(key)
        names = blocks if stage in self._sharing else ()
        opening = self._cache.open(key, (scope, stage, span), layout, kv_tokens, names)
        self._end(opening.evicted)
        self._stage_of[key] = stage
        self._highest[key] = opening.hit_tokens
        source, tokens, hit = opening.source, opening.tokens, opening.hit_tokens
        if source is None:
            self._command(lambda core: core.open(key, stage, span, tokens, kv_tokens))
        else:
            taken = opening.take_over
            self._command(
                lambda core: core.open_from(key, source, tokens, kv_tokens, length=hit, take_over=taken)
            )
        return hit

    def grow(self, key: SequenceKey, kv_tokens: int) -> None:
        """Reserve room for ``kv_tokens`` in all. Raises KVFullError, EngineError for a key that isn't open."""
        tokens, evicted = self._cache.reserve(key, self._layout_of(key), kv_tokens)
        self._end(evicted)
        self._command(lambda core: core.grow(key, tokens))

    def truncate(self, key: SequenceKey, length: int) -> None:
        """Forget all tokens from ``length`` on, after the steps submitted before. Raises EngineError."""
        if 0 < length < self.floor(key):
            raise EngineError(
                f"can't go back to token {length}: only tokens from {self.floor(key)} on are held"
            )
        self._command(lambda core: core.truncate(key, length))

    def floor(self, key: SequenceKey) -> int:
        """Return the shortest length, beside 0, that ``truncate`` can reach: windows and states forget."""
        return floor_of(self._layout_of(key), self._highest[key])

    def close(self, key: SequenceKey, blocks: Sequence[bytes] = ()) -> None:
        """Free the sequence; its waiting steps end with an error. A key that isn't open is ignored.

        With ``blocks``, the names of its leading blocks, those are kept for later sequences while there is room.
        """
        if key not in self._budget:
            return
        highest = self._highest.pop(key, 0)
        self._stage_of.pop(key, None)
        kept = None
        if blocks and floor_of(self._layout_of(key), highest) == 0:
            kept, evicted = self._cache.keep(key, blocks)
            self._end(evicted)
        if kept is None:
            self._cache.release(key)
            self._command(lambda core: core.close(key))
        else:
            kept_key, tokens = kept
            self._command(lambda core: core.keep(key, kept_key, tokens))

    def _end(self, keys: Iterable[SequenceKey]) -> None:
        """Free kept sequences that had to make room."""
        for key in keys:
            self._command(lambda core, key=key: core.close(key))  # type: ignore[misc]

    def submit(self, job: StepJob | EmbedJob | SampleJob) -> None:
        """Queue ``job``; its result comes out of ``results``, with an error in it if it can't be done.

        All jobs of one turn of the event loop reach the compute thread together, so that they share a batch.
        """
        if isinstance(job, StepJob) and job.key in self._highest:
            self._highest[job.key] = max(self._highest[job.key], job.position + job.count)
        if not self._submitted and self._loop is not None:
            self._loop.call_soon(self._flush)
        self._submitted.append(job)

    def _flush(self) -> bool:
        """Hand what was submitted to the compute thread; return whether there was anything."""
        jobs, self._submitted = self._submitted, []
        if not jobs:
            return False
        now = time.perf_counter()

        def submit_all(core: ComputeCore) -> None:
            for job in jobs:
                core.submit(job, now)

        self._commands.put(submit_all)
        return True

    def _command(self, command: Command) -> None:
        """Queue ``command`` behind the jobs submitted before it."""
        self._flush()
        self._commands.put(command)

    async def results(self) -> AsyncIterator[list[Result]]:
        """Yield one list for each finished batch that ``deliver`` does not take, until the engine closes.

        Raises EngineError when the compute thread or ``deliver`` failed.
        """
        while (batch := await self._results.get()) is not None:
            yield batch
        if self._crash is not None:
            raise EngineError(f"the engine stopped: {self._crash!r}") from self._crash

    def free_kv_tokens(self, model: ModelId, span: LayerSpan) -> int:
        """Return the tokens one more sequence through ``span`` could surely reserve. Raises ModelError."""
        stage = self._stage_for(model, span)
        layout = self._layouts[stage].part(span.start - stage[1].start, len(span))
        return self._budget.free_tokens(layout, spare_bytes=self._cache.kept_bytes)

    def reserved_bytes(self, key: SequenceKey) -> int:
        """Return what ``key`` has reserved; 0 for a key that isn't open."""
        return self._budget.bytes_of(key) if key in self._budget else 0

    def stats(self) -> EngineStats:
        """Return what the engine holds and has done since its start."""
        counters = self._core.counters
        return EngineStats(
            kv_budget_bytes=self._budget.budget_bytes,
            kv_used_bytes=self._budget.used_bytes,
            sequences=len(self._budget) - len(self._cache),
            kv_kept_bytes=self._cache.kept_bytes,
            queued_jobs=self._core.queued + self._commands.qsize() + len(self._submitted),
            steps=counters.steps,
            rows=counters.rows,
            busy_seconds=counters.busy_seconds,
            weight_bytes=sum(self._weights.values()),
            spans=tuple(self._layouts),
        )

    def _stage_for(self, model: ModelId, span: LayerSpan) -> StageKey:
        """Return the smallest loaded span that covers ``span``."""
        covering = [
            key
            for key in self._layouts
            if key[0] == model and key[1].covers(span) and key not in self._retiring
        ]
        if not covering:
            raise ModelError(f"{span.described()} of {model} are not loaded here")
        return min(covering, key=lambda key: len(key[1]))

    def _layout_of(self, key: SequenceKey) -> KVLayout:
        if key not in self._budget:
            raise EngineError("the sequence is not open")
        return self._budget.layout_of(key)

    # The thread

    async def _call(self, function: Callable[[ComputeCore], T]) -> T:
        """Run ``function`` on the compute thread and return what it returns."""
        done: Future[T] = Future()

        def run(core: ComputeCore) -> None:
            try:
                result = function(core)
            except EngineError as exc:
                if done.set_running_or_notify_cancel():
                    done.set_exception(exc)
            else:
                # Who asked may have been cancelled meanwhile; the thread goes on.
                if done.set_running_or_notify_cancel():
                    done.set_result(result)

        self._command(run)
        return await asyncio.wrap_future(done)

    def _run(self) -> None:
        torch.set_num_threads(self._settings.threads or psutil.cpu_count(logical=False) or 1)
        try:
            with torch.inference_mode():
                while self._take_commands():
                    if self._core.has_work():
                        self._post(self._core.run())
        except BaseException as exc:
            self._crash = exc
            self._post(None)
            raise

    def _take_commands(self) -> bool:
        """Carry out what is queued, waiting for something while that pays; False: stop."""
        while True:
            try:
                command = self._next_command()
            except queue.Empty:
                return True
            if command is None:
                return False
            command(self._core)

    def _next_command(self) -> Command | None:
        if not self._core.has_work():
            return self._commands.get()
        patience = self._core.patience(time.perf_counter())
        return self._commands.get(timeout=patience) if patience > 0 else self._commands.get_nowait()

    def _post(self, batch: list[Result] | None) -> None:
        if self._loop is not None and (batch is None or batch) and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived, batch)

    def _arrived(self, batch: list[Result] | None) -> None:
        """Hand a batch on, in the very turn of the loop that the compute thread woke it for."""
        if batch is None or self._deliver is None:
            self._results.put_nowait(batch)
            return
        try:
            self._deliver(batch)
            if self._flush():
                time.sleep(_HAND_OVER_SECONDS)
        except BaseException as exc:
            self._crash = exc
            self._results.put_nowait(None)
            raise


def default_kv_bytes() -> int:
    """Return a quarter of the free memory, 2 GiB at most."""
    return min(int(psutil.virtual_memory().available) // 4, _MAX_DEFAULT_KV_BYTES)


def _install_stage(core: ComputeCore, key: StageKey, stage: Stage) -> tuple[float, float]:
    """Make ``stage`` usable; return what ``stage_seconds`` does."""
    found = stage_seconds(stage)
    core.stages[key] = stage
    return found


def _install_ends(core: ComputeCore, model: ModelId, ends: Ends) -> float:
    """Make ``ends`` usable; return what ``ends_seconds`` does."""
    found = ends_seconds(ends)
    core.ends[model] = ends
    return found
