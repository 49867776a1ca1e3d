"""Which model and layers this node holds: found, loaded and advertised. Tensors stay in the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from swarm.errors import ModelError, SwarmError
from swarm.gossip.record import HostedSpan, SpanLoad
from swarm.models.tokenizer import ChatTokenizer
from swarm.routing.placement import choose_span, missing_layers
from swarm.types import LayerSpan, ModelId

if TYPE_CHECKING:
    from swarm.config import ModelSettings
    from swarm.engine.jobs import LoadedEnds, LoadedStage
    from swarm.engine.worker import Engine
    from swarm.models.progress import Progress
    from swarm.models.store import LocalModel, ModelStore
    from swarm.routing.view import SwarmView


class Hosting:
    """Owns what is loaded. ``on_change`` is called whenever the node's record must say something new."""

    def __init__(
        self,
        *,
        settings: ModelSettings,
        store: ModelStore,
        engine: Engine,
        ends_wanted: bool,
        view: Callable[[], SwarmView],
        announce: Callable[[str], None],
        progress: Progress | None,
        on_change: Callable[[], None],
        joined: Callable[[], Awaitable[None]],
        native: Callable[[str], bool],
    ) -> None:
        self._native = native
        self._joined = joined
        self._settings = settings
        self._store = store
        self._engine = engine
        self._ends_wanted = ends_wanted
        self._view = view
        self._announce = announce
        self._progress = progress
        self._on_change = on_change
        self._local: dict[ModelId, LocalModel] = {}
        self._stages: list[tuple[LoadedStage, int]] = []
        self._ends: dict[ModelId, LoadedEnds] = {}
        self._tokenizers: dict[ModelId, ChatTokenizer] = {}
        self._loading = asyncio.Lock()

    # --- what others read ---

    def local_models(self) -> dict[ModelId, LocalModel]:
        return self._local

    def by_name(self, name: str) -> LocalModel | None:
        return next((local for local in self._local.values() if local.id.name == name), None)

    def hosted(self) -> tuple[HostedSpan, ...]:
        """The spans for this node's record."""
        return tuple(HostedSpan(s.model, s.span, s.dtype, layers) for s, layers in self._stages)

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
        local = await (self._asked_for() if self._settings.model else self._served_by_swarm())
        self._local[local.id] = local
        if self._settings.layers == "auto":
            await self._joined()
        try:
            await self._load(local)
        except SwarmError as exc:
            if self._settings.model:
                raise
            self._announce(f"Could not load {local.id}, so this node is a member without layers: {exc}")

    async def _asked_for(self) -> LocalModel:
        layers = self._settings.layers
        wanted: LayerSpan | Literal["all"] | None = layers if isinstance(layers, LayerSpan) else None
        if layers == "auto":
            wanted = "all"
        return await asyncio.to_thread(
            self._store.obtain,
            self._settings.model,
            span=wanted,
            ends=self._ends_wanted,
            progress=self._progress,
        )

    async def _served_by_swarm(self) -> LocalModel:
        """Wait until the swarm serves a model that is on this disk; say once what is lacking."""
        said: set[ModelId] = set()
        await self._joined()
        if not self._view().layers:
            self._announce(
                "No model was named and the swarm serves none yet: this node is a member without layers. "
                "Restart it with --model ID_OR_FOLDER, or start another node that serves one."
            )
        while True:
            for model_id in sorted(self._view().layers):
                local = await asyncio.to_thread(self._store.find, model_id.name)
                if local is not None and local.id == model_id:
                    return local
                if model_id not in said:
                    said.add(model_id)
                    why = "is not on this disk" if local is None else "has other weights on this disk"
                    self._announce(
                        f"The swarm serves {model_id}, which {why}: this node is a member without layers. "
                        f"Restart this node with --model {model_id.name} to obtain and serve it."
                    )
            await asyncio.sleep(1.0)

    async def _load(self, local: LocalModel) -> None:
        dtype = self.compute_dtype(local)
        span = self._span(local)
        for wanted in (span, *self._private_spans(local, span)):
            if wanted is not None:
                await self._load_span(local, wanted, dtype)
        if self._ends_wanted:
            await self.need_ends(local)
            await self.tokenizer(local)
        self._on_change()

    async def _load_span(self, local: LocalModel, span: LayerSpan, dtype: str) -> None:
        self._announce(f"Loading {span.described()} of {local.id.name} in {dtype} …")
        stage = await self._engine.load_span(local, span, dtype)
        self._stages.append((stage, local.spec.layers))
        self._on_change()
        self._announce(
            f"Ready: {span.described()} of {local.spec.layers} of {local.id}, "
            f"{stage.weight_bytes / 2**20:.0f} MiB, {stage.seconds_per_layer * 1e3:.2f} ms a layer and token"
        )

    def _private_spans(self, local: LocalModel, held: LayerSpan | None) -> tuple[LayerSpan, ...]:
        """The first and last layers that this door insists on computing itself and does not hold yet."""
        first, last = private_layers(self._settings.private_layers)
        layers = local.spec.layers
        if first + last > layers:
            raise ModelError(f"{local.id.name} has {layers} layers: --private-layers {first}:{last} are more")
        wanted = ([LayerSpan(0, first)] if first else []) + (
            [LayerSpan(layers - last, layers)] if last else []
        )
        return tuple(span for span in wanted if held is None or not held.covers(span))

    def _span(self, local: LocalModel) -> LayerSpan | None:
        wanted = self._settings.layers
        if wanted == "none":
            return None
        layers = local.spec.layers
        if isinstance(wanted, LayerSpan):
            if wanted.end > layers:
                raise ModelError(
                    f"{local.id.name} has {layers} layers: --layers must end at {layers} or before"
                )
            return wanted
        span = choose_span(self._view(), local.id, layers)
        missing = (
            ", ".join(hole.described() for hole in missing_layers(self._view(), local.id, layers))
            or "nothing"
        )
        self._announce(f"The swarm lacks {missing} of {local.id.name}; this node takes {span.described()}.")
        return span

    def compute_dtype(self, local: LocalModel) -> str:
        """``--dtype``; auto is the checkpoint's where this device computes it natively, else float32."""
        if self._settings.dtype != "auto":
            return self._settings.dtype
        return local.spec.dtype if self._native(local.spec.dtype) else "float32"

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
