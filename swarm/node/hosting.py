"""What this node holds: loaded within its memory, and advertised. Decides nothing; tensors stay in the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from swarm.config import MIB
from swarm.errors import ModelError
from swarm.gossip.record import HostedSpan, IntendedSpan, SpanLoad
from swarm.models.footprint import Footprint, footprint_of
from swarm.models.memory import Division, Memory, check_fits, divide, needed_bytes, part_of, reach
from swarm.models.tokenizer import ChatTokenizer
from swarm.routing.placement import Machine
from swarm.types import LayerSpan, ModelId, NodeId

if TYPE_CHECKING:
    from swarm.config import ModelSettings
    from swarm.engine.jobs import LoadedEnds, LoadedStage
    from swarm.engine.worker import Engine
    from swarm.models.store import LocalModel
    from swarm.node.library import Library

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
        announce: Callable[[str], None],
        on_change: Callable[[], None],
        drain: Callable[[ModelId, LayerSpan, float], Awaitable[int]],
        computed_in: Callable[[str, str], str],
    ) -> None:
        self._node = node
        self._computed_in = computed_in
        self._drain = drain
        self.frozen = False
        """Set when this node leaves: what it holds stays as it is."""
        self._settings = settings
        self._library = library
        self._engine = engine
        self._memory = memory
        self._ends_wanted = memory.door
        self._announce = announce
        self._on_change = on_change
        self._stages: list[tuple[LoadedStage, int]] = []
        self._ends: dict[ModelId, LoadedEnds] = {}
        self._tokenizers: dict[ModelId, ChatTokenizer] = {}
        self._loading = asyncio.Lock()
        self._intended: dict[ModelId, IntendedSpan] = {}
        self._footprints: dict[ModelId, Footprint] = {}
        self._reaches: dict[tuple[ModelId, int], tuple[int, ...]] = {}
        self._claimed: dict[ModelId, list[LayerSpan]] = {}
        """What is loaded or being loaded of each model: what its memory is counted by."""
        self._doing: dict[ModelId, str] = {}
        self._seconds_per_byte = 0.0
        self._settled = False
        self.expected = max(len(settings.model), 1)
        """How many models this node is to hold layers of, those included that it has not got yet."""
        self._complete: set[ModelId] = set()
        """Models whose first span, if any, is decided and loaded."""
        self._divisions: dict[ModelId, Division] = {}

    # --- what others read ---

    def local_models(self) -> dict[ModelId, LocalModel]:
        return self._library.models

    def hosted(self) -> tuple[HostedSpan, ...]:
        """The spans for this node's record."""
        return tuple(HostedSpan(s.model, s.span, s.dtype, layers, s.quantize) for s, layers in self._stages)

    def doing(self, model: ModelId) -> str:
        """What happens to the model's layers here now, for people; empty when nothing does."""
        return self._doing.get(model, "")

    def memory(self) -> dict[str, int]:
        """How this node's memory is divided, in bytes."""
        parts = self._divisions.values()
        return {
            "total_bytes": self._memory.total_bytes,
            "weights_bytes": sum(part.weights_bytes for part in parts),
            "ends_bytes": sum(part.ends_bytes for part in parts),
            "kv_bytes": sum(part.kv_bytes for part in parts),
            "overhead_bytes": self._memory.overhead_bytes,
        }

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

    # --- what it settles ---

    async def settled(self, local: LocalModel) -> None:
        """What this node holds is decided and loaded: load what its door needs, and say that it is ready. Once."""
        if local.id in self._complete:
            return
        self._complete.add(local.id)
        if self._ends_wanted:
            local = await self._library.complete(local, [], ends=True)
            await self.need_ends(local)
            await self.tokenizer(local)
        if len(self._complete) >= self.expected:
            self.settle()

    def settle(self) -> None:
        """Say that this node is ready, whatever it holds."""
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
        memory = self._memory_for(local)
        key = (local.id, memory.total_bytes)
        if key not in self._reaches:
            self._reaches[key] = reach(memory, model, self.private_spans(local))
        measured = [stage.seconds_per_layer for stage, _ in self._stages if stage.model == local.id]
        guessed = self._seconds_per_byte * sum(model.layer_bytes) / model.layers
        head = self.head_seconds or self._seconds_per_byte * model.ends_bytes
        return Machine(
            node=self._node,
            seconds_per_layer=min(measured, default=guessed),
            reach=self._reaches[key],
            door_seconds=head if self._ends_wanted else 0.0,
        )

    def fits_beside(self, local: LocalModel, span: LayerSpan | None) -> bool:
        """Whether ``span`` fits into memory together with all that is loaded."""
        return self.fits(local, [*self.spans_of(local), *([span] if span is not None else [])])

    def fits(self, local: LocalModel, spans: Sequence[LayerSpan]) -> bool:
        """Whether ``spans`` of a model fit into memory together, beside what is held of other models."""
        memory = self._memory_for(local)
        return needed_bytes(memory, self.footprint(local), spans) <= memory.total_bytes

    def check_fits(self, local: LocalModel, spans: Sequence[LayerSpan]) -> None:
        """Raise DoesNotFitError with the numbers unless ``fits``."""
        check_fits(self._memory_for(local), self.footprint(local), local.id.name, spans)

    def intend(self, local: LocalModel, span: LayerSpan | None, *, firm: bool) -> None:
        """Tell the swarm what this node means to load."""
        seconds = self.machine(local).seconds_per_layer
        if span is None:
            self._intended.pop(local.id, None)
        else:
            self._intended[local.id] = IntendedSpan(local.id, span, local.spec.layers, firm, seconds * 1e6)
        self._on_change()

    async def load(self, local: LocalModel, span: LayerSpan) -> None:
        """Load and advertise ``span`` beside what is held, its weights fetched first if they are not here.

        Raises DoesNotFitError before anything is fetched, ModelError.
        """
        claimed = self._claimed.setdefault(local.id, [])
        self.check_fits(local, [*claimed, span])
        claimed.append(span)
        self._doing[local.id] = f"loading {span.described()}"
        try:
            local = await self._library.complete(local, [span], ends=False)
            dtype = self.compute_dtype(local)
            self._divide_memory(local)
            self._announce(f"Loading {span.described()} of {local.id.name} in {dtype} …")
            stage = await self._engine.load_span(local, span, dtype, self._settings.quantize)
        except BaseException:
            claimed.remove(span)
            self._share_out()
            raise
        finally:
            self._doing.pop(local.id, None)
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
        self._doing[local.id] = f"answers leave {span.described()}"
        try:
            cut_off = await self._drain(local.id, span, DRAIN_SECONDS)
        finally:
            self._doing.pop(local.id, None)
        if cut_off:
            self._announce(f"{cut_off} answers still used {span.described()}; they go on elsewhere.")
        await self._engine.unload_span(local.id, span)
        self._claimed[local.id].remove(span)
        self._divide_memory(local)
        self._announce(f"Dropped {span.described()} of {local.id.name}.")

    def door_opened(self) -> None:
        """From now on the ends of models count as held: a front door loads them with the first request."""
        if not self._memory.door:
            self._memory = replace(self._memory, door=True)
            self._share_out()

    # --- inside ---

    def spans_of(self, local: LocalModel) -> list[LayerSpan]:
        return [stage.span for stage, _ in self._stages if stage.model == local.id]

    def _memory_for(self, local: LocalModel) -> Memory:
        """Return the model's part of the memory: what others need at least is theirs, the rest is for the undecided."""
        self.footprint(local)
        needed = [self._least_bytes(model) for model in self._counted() if model != local.id]
        undecided = max(self.expected - 1 - len(needed), 0)
        return part_of(self._memory_of(local.id), needed, undecided)

    def _counted(self) -> list[ModelId]:
        return sorted(self._complete | {model for model, spans in self._claimed.items() if spans})

    def _least_bytes(self, model: ModelId) -> int:
        """Return what a model's spans and ends take without the overhead, which all models share."""
        memory = self._memory_of(model)
        spans = self._claimed.get(model, [])
        return needed_bytes(memory, self._footprints[model], spans) - memory.overhead_bytes

    def _memory_of(self, model: ModelId) -> Memory:
        """Return the whole memory with a model's part of what is asked for in numbers of its own."""
        parts = max(self.expected, 1)
        most = self._memory.most_kv_bytes
        # There is no second form of weights in float32.
        single = self._footprints[model].dtype == "float32"
        return replace(
            self._memory,
            kv_bytes=self._memory.kv_bytes // parts,
            most_kv_bytes=None if most is None else most // parts,
            second_copy_bytes=0 if single else self._memory.second_copy_bytes // parts,
        )

    def _divide_memory(self, local: LocalModel) -> None:
        """Set what KV cache and second copies may use now, and say what that is."""
        division = self._share_out()[local.id]
        self._announce(
            f"Memory: {division.weights_bytes / MIB:.0f} MiB for layers, {division.ends_bytes / MIB:.0f} for the "
            f"model's ends, {division.kv_bytes / MIB:.0f} for KV, {division.overhead_bytes / MIB:.0f} for the "
            f"program; {self._memory.total_bytes / MIB:.0f} may be used."
        )

    def _share_out(self) -> dict[ModelId, Division]:
        """Give each model what it needs at least and an equal part of the rest."""
        least = {model: self._least_bytes(model) for model in self._claimed}
        overhead = self._memory.overhead_bytes
        parts = max(self.expected, len(least), 1)
        rest = max(0, self._memory.total_bytes - overhead - sum(least.values())) // parts
        self._divisions = {
            model: divide(
                replace(self._memory_of(model), total_bytes=overhead + needed + rest),
                self._footprints[model],
                self._claimed[model],
            )
            for model, needed in least.items()
        }
        held = self._divisions.values()
        if held:
            self._engine.limit_memory(
                kv_bytes=sum(part.kv_bytes for part in held),
                second_copy_bytes=sum(part.second_copy_bytes for part in held),
            )
        return self._divisions

    def private_spans(self, local: LocalModel) -> tuple[LayerSpan, ...]:
        """The first and last layers that this door insists on computing itself."""
        first, last = private_layers(self._settings.private_layers)
        layers = local.spec.layers
        if first + last > layers:
            raise ModelError(f"{local.id.name} has {layers} layers: --private-layers {first}:{last} are more")
        return (
            *([LayerSpan(0, first)] if first else []),
            *([LayerSpan(layers - last, layers)] if last else []),
        )

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


def private_layers(text: str) -> tuple[int, int]:
    """Read ``K`` or ``K:M``, as configuration has checked it: the first K and the last M layers."""
    first, _, last = text.partition(":")
    return int(first or 0), int(last or 0)
