"""Which layers of which models this node is to hold: as its settings say, and as its user changes it while it runs.

What is loaded is hosting's; where a node that may choose goes is the placer's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swarm.config import ModelChoice
from swarm.errors import ConfigError, ModelError, SwarmError, UnknownModelError
from swarm.node.mover import Mover
from swarm.routing.pinning import Change, NobodyElseError, lost_layers, plan_change
from swarm.routing.placement import missing_layers
from swarm.routing.placer import Placer
from swarm.types import LayerSpan, ModelId, NodeId

if TYPE_CHECKING:
    from swarm.config import ModelSettings
    from swarm.models.store import LocalModel
    from swarm.node.hosting import Hosting
    from swarm.node.library import Library
    from swarm.routing.view import SwarmView

RETRY_SECONDS = 2.0
AUTO, NONE = "auto", "none"


@dataclass
class _Held:
    """One model of this node."""

    local: LocalModel
    told: LayerSpan | str
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever changes what is loaded of it: its mover, or the user's change."""
    mover: Mover | None = None
    changed: bool = False
    """Its user has said what to hold: the settings no longer count."""


class Holding:
    """Owns what this node is told, and a mover for each model whose layers it chooses itself."""

    def __init__(
        self,
        *,
        node: NodeId,
        settings: ModelSettings,
        library: Library,
        hosting: Hosting,
        view: Callable[[], SwarmView],
        announce: Callable[[str], None],
        joined: Callable[[], Awaitable[None]],
    ) -> None:
        self._node = node
        self._settings = settings
        self._library = library
        self._hosting = hosting
        self._view = view
        self._announce = announce
        self._joined = joined
        self._choices = tuple(
            choice if isinstance(choice, ModelChoice) else ModelChoice(choice) for choice in settings.model
        )
        self._pending = len(self._choices)
        """Choices whose model is not known yet."""
        self._held: dict[ModelId, _Held] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def state(self) -> list[dict[str, Any]]:
        """What this node is told to hold, holds, and does about it, as JSON values."""
        return [
            {
                "model": model.name,
                "digest": model.digest,
                "of": held.local.spec.layers,
                "told": str(held.told),
                "layers": [str(span) for span in self._hosting.spans_of(held.local)],
                "doing": self._hosting.doing(model),
            }
            for model, held in sorted(self._held.items())
        ]

    # --- from the start ---

    async def run(self) -> None:
        """Load what the settings ask for; without a model, what the swarm serves; then carry out changes.

        Raises SwarmError when a model or layers that were named can't be had: whoever named them should know at once.
        A node that was told nothing stays a member whatever happens, and says what it lacks.
        """
        async with asyncio.TaskGroup() as self._tasks:
            if self._choices:
                self._tasks.create_task(self._hold_chosen(self._tasks))
            if not self._choices and self._settings.layers == NONE:
                self._hosting.settle()
            elif not self._choices:
                self._tasks.create_task(self._serve_with_the_swarm())
            # Changes need the group for as long as the node runs.
            await asyncio.Event().wait()

    async def _hold_chosen(self, later: asyncio.TaskGroup) -> None:
        # What is known of the models comes first, their weights when it is decided which: they share one memory.
        async with asyncio.TaskGroup() as tasks:
            named = [
                tasks.create_task(self._library.named(choice.name, span=None, ends=False))
                for choice in self._choices
            ]
        told = [self._settings.layers if choice.layers is None else choice.layers for choice in self._choices]
        chosen = [(one.result(), layers) for one, layers in zip(named, told, strict=True)]
        if len(chosen) > 1:
            await self._share(chosen)
        for local, layers in chosen:
            self._pending -= 1
            self._held.setdefault(local.id, _Held(local, layers))
            later.create_task(self._hold(local, layers))

    async def _share(self, chosen: Sequence[tuple[LocalModel, LayerSpan | str]]) -> None:
        """Divide the memory among several models. Raises DoesNotFitError when what was named does not fit together."""
        await self._joined()
        view = self._view()
        wishes, pinned = {}, []
        for local, told in chosen:
            spans = None if told == AUTO else self._wanted(local, told)
            missing = missing_layers(view, local.id, local.spec.layers)
            wishes[local.id] = self._hosting.wish(local, spans, missing)
            if spans is not None:
                pinned.append((local, spans))
        self._hosting.give_portions(wishes)
        for local, spans in pinned:
            self._hosting.check_fits(local, spans)

    async def _hold(self, local: LocalModel, told: LayerSpan | str) -> None:
        """Hold what the settings say, unless the user has said something else meanwhile."""
        held = self._held.setdefault(local.id, _Held(local, told))
        async with held.turn:
            if held.changed:
                return
            self._held[local.id], held.told = held, told
            if told == AUTO:
                await self._joined()
                await self._choose(held, must_load=bool(self._choices))
                return
            spans = self._wanted(local, told)
            self._hosting.check_fits(local, spans)
            try:
                for span in spans:
                    self._hosting.intend(local, span, firm=True)
                    await self._hosting.load(local, span)
            finally:
                self._hosting.intend(local, None, firm=False)
            await self._hosting.settled(local)

    async def _serve_with_the_swarm(self) -> None:
        """Hold layers of what the swarm serves, fetched from its members; say once what prevents it."""
        said = ""
        await self._joined()
        if not self._view().layers:
            self._announce(
                "No model was named and the swarm serves none yet: this node takes layers once a member holds some "
                "(one that is loading soon does). To serve another model: --model ID_OR_FOLDER, or `swarm layers`."
            )
        while not self._held:
            model = self._model_to_serve()
            if model is not None:
                try:
                    local = await self._library.exactly(model, span=None, ends=False)
                    await self._hold(local, self._settings.layers)
                except SwarmError as exc:
                    if model in self._held and not self._held[model].changed:
                        del self._held[model]
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

    async def _choose(self, held: _Held, *, must_load: bool) -> None:
        """Hold what helps the swarm most, now and later, from what is held now. The caller has the turn."""
        await self._hosting.measure(held.local)
        private = self._hosting.private_spans(held.local)
        for span in private:
            if span not in self._hosting.spans_of(held.local):
                await self._hosting.load(held.local, span)
        self._start_mover(held, must_load=must_load)

    def _start_mover(self, held: _Held, *, must_load: bool) -> None:
        if self._tasks is None:
            raise SwarmError("this node does not run yet")
        private = self._hosting.private_spans(held.local)
        placer = Placer(self._node, held.local.id, random.uniform)
        placer.adopt([span for span in self._hosting.spans_of(held.local) if span not in private])
        held.mover = Mover(
            placer,
            hosting=self._hosting,
            view=self._view,
            announce=self._announce,
            clock=time.perf_counter,
            turn=held.turn,
        )
        self._tasks.create_task(held.mover.run(held.local, must_load=must_load))

    # --- changed while it runs ---

    async def change(self, name: str, layers: str, *, force: bool = False) -> dict[str, Any]:
        """Hold ``layers`` (A:B, auto or none) of a model from now on, without an answer failing by it.

        ``name`` may be empty where one model only can be meant. What is new is loaded beside what is old; the old is
        left once it is advertised no more and its answers have moved. Returns what ``state`` shows of the model.
        Raises ConfigError for what can't be meant, DoesNotFitError, NobodyElseError unless ``force``, ModelError.
        """
        told = _read(layers)
        local = await self._local(name)
        count = local.spec.layers
        if isinstance(told, LayerSpan) and told.end > count:
            raise ConfigError(f"{local.id.name} has {count} layers, so layers can't end at {told.end}")
        if self._hosting.frozen:
            raise SwarmError("this node is leaving the swarm")
        held = self._held.get(local.id)
        if held is None:
            if told == NONE:
                raise ConfigError(f"this node holds nothing of {local.id.name}")
            held = self._held[local.id] = _Held(local, NONE)
        try:
            async with held.turn:
                self._expect(coming=local.id if told != NONE else None)
                await self._carry_out(held, told, force)
        finally:
            if held.told == NONE and not self._hosting.spans_of(local):
                self._held.pop(local.id, None)
            self._expect()
        gone = {
            "model": local.id.name,
            "digest": local.id.digest,
            "of": count,
            "told": NONE,
            "layers": [],
            "doing": "",
        }
        return next((shown for shown in self.state() if shown["digest"] == local.id.digest), gone)

    async def _carry_out(self, held: _Held, told: LayerSpan | str, force: bool) -> None:
        """Change what is held. What is refused changes nothing; a mover goes on then, and after a load that failed."""
        local = held.local
        if told == AUTO:
            if held.mover is None:
                await self._choose(held, must_load=False)
            held.told, held.changed = AUTO, True
            return
        wanted = self._wanted(local, told)
        self._hosting.check_fits(local, wanted)
        change = plan_change(
            self._hosting.spans_of(local),
            wanted,
            self._others(local.id),
            model=local.id.name,
            layers=local.spec.layers,
            fits=lambda spans: self._hosting.fits(local, spans),
            force=force,
        )
        if held.mover is not None:
            held.mover.stop()
            held.mover = None
        try:
            await self._exchange(local, change, force)
            held.told, held.changed = told, True
        finally:
            self._hosting.intend(local, None, firm=False)
            if held.told == AUTO and not self._hosting.frozen:
                self._start_mover(held, must_load=False)
        await self._hosting.settled(local)

    async def _exchange(self, local: LocalModel, change: Change, force: bool) -> None:
        if change.retires_first:
            await self._retire(local, change, force=True)
        for span in change.loads:
            self._hosting.intend(local, span, firm=True)
            await self._hosting.load(local, span)
        if not change.retires_first:
            await self._retire(local, change, force=force)

    async def _retire(self, local: LocalModel, change: Change, *, force: bool) -> None:
        """Leave the old spans; others may have left theirs while the new ones were loading."""
        for span in change.retires:
            held = self._hosting.spans_of(local)
            after = [one for one in held if one != span]
            lost = lost_layers(held, after, self._others(local.id), local.spec.layers)
            if lost and not force:
                raise NobodyElseError(
                    local.id.name,
                    lost,
                    "others left them meanwhile, so this node keeps them beside what is new",
                )
            await self._hosting.retire(local, span)

    async def _local(self, name: str) -> LocalModel:
        """Return the model that is meant; of its weights only what is here already."""
        if not name:
            meant = sorted(self._held) or sorted(self._view().layers)
            if len(meant) != 1:
                what = (
                    f"this node could mean {', '.join(str(one) for one in meant)}"
                    if meant
                    else "it knows none"
                )
                raise ConfigError(f"say which model: {what}")
            return await self._library.exactly(meant[0], span=None, ends=False)
        try:
            return await self._library.exactly(self._library.resolve(name), span=None, ends=False)
        except UnknownModelError:
            return await self._library.named(name, span=None, ends=False)

    def _wanted(self, local: LocalModel, told: LayerSpan | str) -> list[LayerSpan]:
        """The spans of a node that is told what to hold: those, and what its door insists on computing itself."""
        if isinstance(told, LayerSpan) and told.end > local.spec.layers:
            layers = local.spec.layers
            raise ModelError(f"{local.id.name} has {layers} layers: --layers must end at {layers} or before")
        pinned = [told] if isinstance(told, LayerSpan) else []
        private = self._hosting.private_spans(local)
        return [*pinned, *(one for one in private if not any(span.covers(one) for span in pinned))]

    def _others(self, model: ModelId) -> Sequence[LayerSpan]:
        """What others hold of it and do not mean to leave: who moves leaves all but where it goes."""
        view = self._view()
        going = {one.node: one.span for one in view.intentions if one.model == model}
        return [
            one.span
            for one in view.spans
            if one.model == model and one.node != self._node and going.get(one.node, one.span) == one.span
        ]

    def _expect(self, coming: ModelId | None = None) -> None:
        """Count the models that share this node's memory; ``coming`` will be one of them."""
        sharing = {
            model
            for model, held in self._held.items()
            if held.told != NONE or model == coming or self._hosting.spans_of(held.local)
        }
        self._hosting.expected = max(len(sharing) + self._pending, 1)


def _read(layers: str) -> LayerSpan | str:
    if layers in (AUTO, NONE):
        return layers
    try:
        return LayerSpan.parse(layers)
    except ValueError as exc:
        raise ConfigError(f"{exc}; or say auto or none") from None
