"""What this node holds: loaded within its memory, and advertised. Decides nothing; tensors stay in the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from swarm.config import MIB
from swarm.errors import ModelError
from swarm.gossip.record import HostedSpan, IntendedSpan, SpanLoad
from swarm.models.footprint import Footprint, footprint_of
from swarm.models.memory import Memory, Wish
from swarm.models.tokenizer import ChatTokenizer
from swarm.node.room import Room
from swarm.routing.placement import Machine
from swarm.routing.speed import SpanSpeed
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
        self._ends_wanted = memory.door
        self._announce = announce
        self._on_change = on_change
        self._stages: list[tuple[LoadedStage, int]] = []
        self._ends: dict[ModelId, LoadedEnds] = {}
        self._tokenizers: dict[ModelId, ChatTokenizer] = {}
        self._loading = asyncio.Lock()
        self._intended: dict[ModelId, IntendedSpan] = {}
        self._speeds: dict[tuple[ModelId, LayerSpan], SpanSpeed] = {}
        self._footprints: dict[ModelId, Footprint] = {}
        self._room = Room(
            memory, lambda kv, copies: engine.limit_memory(kv_bytes=kv, second_copy_bytes=copies)
        )
        self._doing: dict[ModelId, str] = {}
        self._seconds_per_byte = 0.0
        self._settled = False
        self.expected = max(len(settings.model), 1)
        """How many models this node is to hold layers of, those included that it has not got yet."""
        self._complete: set[ModelId] = set()
        """Models whose first span, if any, is decided and loaded."""

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
        parts = self._room.division
        return {
            "total_bytes": self._room.memory.total_bytes,
            "weights_bytes": parts.weights_bytes,
            "ends_bytes": parts.ends_bytes,
            "kv_bytes": parts.kv_bytes,
            "overhead_bytes": parts.overhead_bytes,
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
                index,
                self._speeds[stage.model, stage.span].seconds_per_layer * 1e6,
                self._engine.free_kv_tokens(stage.model, stage.span),
                self._speeds[stage.model, stage.span].seconds_per_row * 1e6,
            )
            for index, (stage, _) in enumerate(self._stages)
        )

    async def measure_again(self) -> None:
        """Measure what is loaded; at load the machine may have been busy with other things."""
        for key, speed in list(self._speeds.items()):
            found = await self._engine.measure_span(*key) if speed.again else None
            if found is not None:
                speed.measured(*found)

    def passed(self, key: tuple[ModelId, LayerSpan], layers: int, rows: int, seconds: float) -> None:
        """Learn from a pass through ``layers`` layers of a loaded span how fast it is."""
        if key in self._speeds:
            self._speeds[key].note(layers, rows, seconds)

    # --- what it settles ---

    async def settled(self, local: LocalModel) -> None:
        """What this node holds is decided and loaded: load what its door needs, and say that it is ready. Once."""
        if local.id in self._complete:
            return
        self._complete.add(local.id)
        self._room.settled(local.id)
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
            self._room.know(local.id, found)
        return found

    async def measure(self, local: LocalModel) -> None:
        """Measure how fast this machine reads weights; what else runs here only slows it, so the best time counts."""
        seconds = await self._engine.seconds_per_byte(self.compute_dtype(local))
        self._seconds_per_byte = min(self._seconds_per_byte or seconds, seconds)

    def machine(self, local: LocalModel) -> Machine:
        """Return this node as placement sees it: its speed as measured, or estimated before it holds any layer."""
        model = self.footprint(local)
        measured = [speed.seconds_per_layer for (held, _), speed in self._speeds.items() if held == local.id]
        guessed = self._seconds_per_byte * sum(model.layer_bytes) / model.layers
        head = self.head_seconds or self._seconds_per_byte * model.ends_bytes
        return Machine(
            node=self._node,
            seconds_per_layer=min(measured, default=guessed),
            reach=self._room.reach(local.id, self.private_spans(local)),
            door_seconds=head if self._ends_wanted else 0.0,
        )

    def fits_beside(self, local: LocalModel, span: LayerSpan | None) -> bool:
        """Whether ``span`` fits into memory together with all that is loaded."""
        return self.fits(local, [*self.spans_of(local), *([span] if span is not None else [])])

    def fits(self, local: LocalModel, spans: Sequence[LayerSpan]) -> bool:
        """Whether ``spans`` of a model fit into memory together, beside what is held of other models."""
        self.footprint(local)
        return self._room.fits(local.id, spans)

    def give_portions(self, chosen: Mapping[ModelId, Wish]) -> None:
        """Divide the memory among several models before any is loaded."""
        parts = self._room.give_portions(chosen)
        each = ", ".join(f"{part / MIB:.0f} MiB for {model.name}" for model, part in parts.items())
        self._announce(f"Memory for several models: {each}; what one leaves is the others'.")

    def wish(
        self, local: LocalModel, spans: Sequence[LayerSpan] | None, missing: Sequence[LayerSpan]
    ) -> Wish:
        """Return what a model asks of the memory: its spans, or (None) as many layers as it gets room for."""
        pinned = None if spans is None else tuple(spans)
        return Wish(self.footprint(local), self._ends_wanted, pinned, tuple(missing))

    def check_fits(self, local: LocalModel, spans: Sequence[LayerSpan]) -> None:
        """Raise DoesNotFitError with the numbers unless ``fits``."""
        self.footprint(local)
        self._room.check(local.id, spans)

    def intend(self, local: LocalModel, span: LayerSpan | None, *, firm: bool) -> None:
        """Tell the swarm what this node means to load."""
        seconds = self.machine(local).seconds_per_layer
        self._room.intend(local.id, span)
        if span is None:
            self._intended.pop(local.id, None)
        else:
            self._intended[local.id] = IntendedSpan(local.id, span, local.spec.layers, firm, seconds * 1e6)
        self._on_change()

    async def load(self, local: LocalModel, span: LayerSpan) -> None:
        """Load and advertise ``span`` beside what is held, its weights fetched first if they are not here.

        Raises DoesNotFitError before anything is fetched, ModelError.
        """
        self.footprint(local)
        self._room.claim(local.id, span)
        self._doing[local.id] = f"loading {span.described()}"
        try:
            local = await self._library.complete(local, [span], ends=False)
            dtype = self.compute_dtype(local)
            self._announce(self._room.division.described(self._room.memory))
            self._announce(f"Loading {span.described()} of {local.id.name} in {dtype} …")
            stage = await self._engine.load_span(local, span, dtype, self._settings.quantize)
        except BaseException:
            self._room.release(local.id, span)
            raise
        finally:
            self._doing.pop(local.id, None)
        self._speeds[local.id, span] = SpanSpeed(stage.seconds_per_layer, stage.seconds_per_row)
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
            who, go = ("One answer", "it goes") if cut_off == 1 else (f"{cut_off} answers", "they go")
            self._announce(f"{who} still used {span.described()}; {go} on elsewhere.")
        await self._engine.unload_span(local.id, span)
        self._speeds.pop((local.id, span), None)
        self._room.release(local.id, span)
        self._announce(f"Dropped {span.described()} of {local.id.name}.")

    def door_opened(self) -> None:
        """From now on the ends of models count as held: a front door loads them with the first request."""
        self._room.door_opened()

    # --- inside ---

    def spans_of(self, local: LocalModel) -> list[LayerSpan]:
        return [stage.span for stage, _ in self._stages if stage.model == local.id]

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

    def has_ends(self, model: ModelId) -> bool:
        """Whether a model's ends are loaded."""
        return model in self._ends

    def check_ends(self, local: LocalModel) -> None:
        """Raise DoesNotFitError when a model's ends don't fit into memory beside all that is held."""
        self.footprint(local)
        self._room.check_ends(local.id)

    async def need_ends(self, local: LocalModel) -> None:
        """Load the embedding, norm and head of a model that this door serves, once. Raises DoesNotFitError before."""
        async with self._loading:
            if local.id in self._ends:
                return
            self.footprint(local)
            self._room.claim_ends(local.id)
            try:
                self._ends[local.id] = await self._engine.load_ends(local, self.compute_dtype(local))
            except BaseException:
                self._room.release_ends(local.id)
                raise

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
