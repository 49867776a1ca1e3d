"""Which model and layers this node holds: found, loaded and advertised. Tensors stay in the engine."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from swarm.config import MIB, ModelChoice
from swarm.errors import ModelError, SwarmError
from swarm.gossip.record import HostedSpan, IntendedSpan, SpanLoad
from swarm.models.footprint import Footprint, footprint_of
from swarm.models.memory import Division, Memory, check_fits, divide, needed_bytes, reach
from swarm.models.tokenizer import ChatTokenizer
from swarm.node.mover import Mover
from swarm.routing.placement import Machine, missing_layers
from swarm.routing.placer import Placer
from swarm.types import LayerSpan, ModelId, NodeId

RETRY_SECONDS = 2.0

if TYPE_CHECKING:
    from swarm.config import ModelSettings
    from swarm.engine.jobs import LoadedEnds, LoadedStage
    from swarm.engine.worker import Engine
    from swarm.models.store import LocalModel
    from swarm.node.library import Library
    from swarm.routing.view import SwarmView

DRAIN_SECONDS = 30.0
"""How long a span that moves away waits for its sessions; those that are left then recover elsewhere."""


class Hosting:
    """Owns what is loaded. ``on_change`` is called whenever the node's record must say something new."""

    def __init__(
        self,
        *,
        node: NodeId,
        settings: ModelSettings,
        library: Library,
        engine: Engine,
        memory: Memory,
        view: Callable[[], SwarmView],
        announce: Callable[[str], None],
        on_change: Callable[[], None],
        joined: Callable[[], Awaitable[None]],
        drain: Callable[[ModelId, LayerSpan, float], Awaitable[int]],
        computed_in: Callable[[str, str], str],
    ) -> None:
        self._node = node
        self._computed_in = computed_in
        self._joined = joined
        self._drain = drain
        self.frozen = False
        """Set when this node leaves: what it holds stays as it is."""
        self._settings = settings
        self._library = library
        self._engine = engine
        self._memory = memory
        self._ends_wanted = memory.door
        self._view = view
        self._announce = announce
        self._on_change = on_change
        self._stages: list[tuple[LoadedStage, int]] = []
        self._ends: dict[ModelId, LoadedEnds] = {}
        self._tokenizers: dict[ModelId, ChatTokenizer] = {}
        self._loading = asyncio.Lock()
        self._intended: dict[ModelId, IntendedSpan] = {}
        self._footprints: dict[ModelId, Footprint] = {}
        self._reaches: dict[ModelId, tuple[int, ...]] = {}
        self._seconds_per_byte = 0.0
        self._settled = False
        self._choices = tuple(
            choice if isinstance(choice, ModelChoice) else ModelChoice(choice) for choice in settings.model
        )
        self._layers: dict[ModelId, LayerSpan | str] = {}
        self._complete: set[ModelId] = set()
        """Models whose first span, if any, is decided and loaded."""
        self._divisions: dict[ModelId, Division] = {}

    # --- what others read ---

    def local_models(self) -> dict[ModelId, LocalModel]:
        return self._library.models

    def hosted(self) -> tuple[HostedSpan, ...]:
        """The spans for this node's record."""
        return tuple(HostedSpan(s.model, s.span, s.dtype, layers, s.quantize) for s, layers in self._stages)

    def intended(self) -> tuple[IntendedSpan, ...]:
        """What this node means to load, for its record."""
        return tuple(self._intended.values())

    @property
    def settled_once(self) -> bool:
        """Whether what this node will serve first is loaded, be it only that it serves nothing."""
        return self._settled

    @property
    def head_seconds(self) -> float:
        """What norm, head and choice of one token take at this door; of several models the slowest; 0: none loaded."""
        return max((ends.head_seconds for ends in self._ends.values()), default=0.0)

    def loads(self) -> tuple[SpanLoad, ...]:
        return tuple(
            SpanLoad(
                index, stage.seconds_per_layer * 1e6, self._engine.free_kv_tokens(stage.model, stage.span)
            )
            for index, (stage, _) in enumerate(self._stages)
        )

    # --- loading ---

    async def run(self) -> None:
        """Load what the settings ask for; without a model, what the swarm serves.

        Raises SwarmError when a model or layers that were named can't be had: whoever named them should know at once.
        A node that was told nothing stays a member whatever happens, and says what it lacks.
        """
        if self._choices:
            async with asyncio.TaskGroup() as tasks:
                for choice in self._choices:
                    tasks.create_task(self._hold_named(choice))
        elif self._settings.layers == "none":
            self._settle()
        else:
            await self._serve_with_the_swarm()

    async def _hold_named(self, choice: ModelChoice) -> None:
        # What is known of the model comes first, its weights when it is decided which.
        local = await self._library.named(choice.name, span=None, ends=False)
        self._layers[local.id] = self._settings.layers if choice.layers is None else choice.layers
        await self._hold(local)

    async def _hold(self, local: LocalModel) -> None:
        if self._layers_of(local) == "auto":
            await self._joined()
            await self._place(local)
        else:
            await self._load(local)

    async def _serve_with_the_swarm(self) -> None:
        """Hold layers of what the swarm serves, fetched from its members; say once what prevents it."""
        said = ""
        await self._joined()
        if not self._view().layers:
            self._announce(
                "No model was named and the swarm serves none yet: this node is a member without layers. "
                "Restart it with --model ID_OR_FOLDER, or start another node that serves one."
            )
        while True:
            model = self._model_to_serve()
            if model is not None:
                try:
                    await self._hold(await self._library.exactly(model, span=None, ends=False))
                except SwarmError as exc:
                    problem = f"Could not load {model}, so this node is a member without layers: {exc}"
                    if problem != said:
                        self._announce(problem)
                        said = problem
                else:
                    return
            await asyncio.sleep(RETRY_SECONDS)

    def _model_to_serve(self) -> ModelId | None:
        """The model of the swarm that lacks the most layers; the first by name of equals."""
        view = self._view()
        lacking = {
            model: sum(len(hole) for hole in missing_layers(view, model, layers))
            for model, layers in view.layers.items()
        }
        return min(lacking, key=lambda model: (-lacking[model], model), default=None)

    async def _place(self, local: LocalModel) -> None:
        """Hold what helps the swarm most, now and later. Raises SwarmError if nothing can be loaded at first."""
        await self.measure(local)
        for span in self._private_spans(local):
            await self.load(local, span)
        mover = Mover(
            Placer(self._node, local.id, random.uniform),
            hosting=self,
            view=self._view,
            announce=self._announce,
            clock=time.perf_counter,
        )
        await mover.run(local, must_load=bool(self._choices))

    async def _load(self, local: LocalModel) -> None:
        """Hold the layers that the settings name. Raises ModelError, DoesNotFitError before anything is loaded."""
        span = self._pinned(local)
        private = self._private_spans(local)
        spans = [
            one for one in (span, *private) if one is not None and (one is span or not _within(one, span))
        ]
        check_fits(self._memory_for(local), self.footprint(local), local.id.name, spans)
        for one in spans:
            await self.load(local, one)
        await self.settled(local)

    async def settled(self, local: LocalModel) -> None:
        """What this node holds is decided and loaded: load what its door needs, and say that it is ready. Once."""
        if local.id in self._complete:
            return
        self._complete.add(local.id)
        if self._ends_wanted:
            local = await self._library.complete(local, [], ends=True)
            await self.need_ends(local)
            await self.tokenizer(local)
        if len(self._complete) >= len(self._choices):
            self._settle()

    def _settle(self) -> None:
        self._settled = True
        self._on_change()

    # --- what placement asks ---

    def footprint(self, local: LocalModel) -> Footprint:
        found = self._footprints.get(local.id)
        if found is None:
            found = footprint_of(
                local.spec, local.manifest, self.compute_dtype(local), self._settings.quantize
            )
            self._footprints[local.id] = found
        return found

    async def measure(self, local: LocalModel) -> None:
        """Measure how fast this machine reads weights; what else runs here only slows it, so the best time counts."""
        seconds = await self._engine.seconds_per_byte(self.compute_dtype(local))
        self._seconds_per_byte = min(self._seconds_per_byte or seconds, seconds)

    def machine(self, local: LocalModel) -> Machine:
        """Return this node as placement sees it: its speed as measured, or estimated before it holds any layer."""
        model = self.footprint(local)
        if local.id not in self._reaches:
            self._reaches[local.id] = reach(self._memory_for(local), model, self._private_spans(local))
        measured = [stage.seconds_per_layer for stage, _ in self._stages if stage.model == local.id]
        guessed = self._seconds_per_byte * sum(model.layer_bytes) / model.layers
        head = self.head_seconds or self._seconds_per_byte * model.ends_bytes
        return Machine(
            node=self._node,
            seconds_per_layer=min(measured, default=guessed),
            reach=self._reaches[local.id],
            door_seconds=head if self._ends_wanted else 0.0,
        )

    def fits_beside(self, local: LocalModel, span: LayerSpan | None) -> bool:
        """Whether ``span`` fits into memory together with all that is loaded."""
        spans = [*self._spans_of(local), *([span] if span is not None else [])]
        memory = self._memory_for(local)
        return needed_bytes(memory, self.footprint(local), spans) <= memory.total_bytes

    def intend(self, local: LocalModel, span: LayerSpan | None, *, firm: bool) -> None:
        """Tell the swarm what this node means to load."""
        seconds = self.machine(local).seconds_per_layer
        if span is None:
            self._intended.pop(local.id, None)
        else:
            self._intended[local.id] = IntendedSpan(local.id, span, local.spec.layers, firm, seconds * 1e6)
        self._on_change()

    async def load(self, local: LocalModel, span: LayerSpan) -> None:
        """Load and advertise ``span`` beside what is held, its weights fetched first if they are not here."""
        local = await self._library.complete(local, [span], ends=False)
        dtype = self.compute_dtype(local)
        self._divide_memory(local, [*self._spans_of(local), span])
        self._announce(f"Loading {span.described()} of {local.id.name} in {dtype} …")
        stage = await self._engine.load_span(local, span, dtype, self._settings.quantize)
        self._stages.append((stage, local.spec.layers))
        self._on_change()
        self._announce(
            f"Ready: {span.described()} of {local.spec.layers} of {local.id}, "
            f"{stage.weight_bytes / 2**20:.0f} MiB, {stage.seconds_per_layer * 1e3:.2f} ms a layer and token"
        )

    async def retire(self, local: LocalModel, span: LayerSpan) -> None:
        """Advertise ``span`` no more, let its sessions end or move, and drop it."""
        self._stages = [
            (stage, layers) for stage, layers in self._stages if (stage.model, stage.span) != (local.id, span)
        ]
        self._on_change()
        cut_off = await self._drain(local.id, span, DRAIN_SECONDS)
        if cut_off:
            self._announce(f"{cut_off} answers still used {span.described()}; they go on elsewhere.")
        await self._engine.unload_span(local.id, span)
        self._divide_memory(local, self._spans_of(local))
        self._announce(f"Dropped {span.described()} of {local.id.name}.")

    # --- inside ---

    def _spans_of(self, local: LocalModel) -> list[LayerSpan]:
        return [stage.span for stage, _ in self._stages if stage.model == local.id]

    def _memory_for(self, local: LocalModel) -> Memory:
        """Return the model's part of the memory: of several each gets as much as the others."""
        parts = max(len(self._choices), 1)
        most = self._memory.most_kv_bytes
        # There is no second form of weights in float32.
        single = self.compute_dtype(local) == "float32"
        return replace(
            self._memory,
            total_bytes=self._memory.total_bytes // parts,
            kv_bytes=self._memory.kv_bytes // parts,
            most_kv_bytes=None if most is None else most // parts,
            second_copy_bytes=0 if single else self._memory.second_copy_bytes // parts,
        )

    def _divide_memory(self, local: LocalModel, spans: Sequence[LayerSpan]) -> None:
        """Set what KV cache and second copies may use when ``spans`` are held."""
        division = divide(self._memory_for(local), self.footprint(local), spans)
        self._divisions[local.id] = division
        held = self._divisions.values()
        self._engine.limit_memory(
            kv_bytes=sum(part.kv_bytes for part in held),
            second_copy_bytes=sum(part.second_copy_bytes for part in held),
        )
        self._announce(
            f"Memory: {division.weights_bytes / MIB:.0f} MiB for layers, {division.ends_bytes / MIB:.0f} for the "
            f"model's ends, {division.kv_bytes / MIB:.0f} for KV, {division.overhead_bytes / MIB:.0f} for the "
            f"program; {self._memory_for(local).total_bytes / MIB:.0f} may be used."
        )

    def _private_spans(self, local: LocalModel) -> tuple[LayerSpan, ...]:
        """The first and last layers that this door insists on computing itself."""
        first, last = private_layers(self._settings.private_layers)
        layers = local.spec.layers
        if first + last > layers:
            raise ModelError(f"{local.id.name} has {layers} layers: --private-layers {first}:{last} are more")
        return (
            *([LayerSpan(0, first)] if first else []),
            *([LayerSpan(layers - last, layers)] if last else []),
        )

    def _layers_of(self, local: LocalModel) -> LayerSpan | str:
        return self._layers.get(local.id, self._settings.layers)

    def _pinned(self, local: LocalModel) -> LayerSpan | None:
        wanted = self._layers_of(local)
        layers = local.spec.layers
        if isinstance(wanted, LayerSpan) and wanted.end > layers:
            raise ModelError(f"{local.id.name} has {layers} layers: --layers must end at {layers} or before")
        return wanted if isinstance(wanted, LayerSpan) else None

    def compute_dtype(self, local: LocalModel) -> str:
        """``--dtype``; auto is the checkpoint's where this device computes it natively, else float32."""
        return self._computed_in(self._settings.dtype, local.spec.dtype)

    async def need_ends(self, local: LocalModel) -> None:
        """Load the embedding, norm and head of a model that this door serves, once."""
        async with self._loading:
            if local.id not in self._ends:
                self._ends[local.id] = await self._engine.load_ends(local, self.compute_dtype(local))

    def can_draft(self, model: ModelId) -> bool:
        """Whether the model's layers can take back tokens that were guessed wrong. Its ends must be loaded."""
        return not self._ends[model].keeps_states

    async def tokenizer(self, local: LocalModel) -> ChatTokenizer:
        async with self._loading:
            found = self._tokenizers.get(local.id)
            if found is None:
                found = await asyncio.to_thread(ChatTokenizer.load, local.folder)
                self._tokenizers[local.id] = found
            return found


def _within(one: LayerSpan, span: LayerSpan | None) -> bool:
    return span is not None and span.covers(one)


def private_layers(text: str) -> tuple[int, int]:
    """Read ``K`` or ``K:M``, as configuration has checked it: the first K and the last M layers."""
    first, _, last = text.partition(":")
    return int(first or 0), int(last or 0)
