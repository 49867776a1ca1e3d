"""What a node holds of several models in one memory; engine and library only note what they are asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from swarm.config import ModelChoice, ModelSettings
from swarm.engine.worker import Engine
from swarm.errors import DoesNotFitError
from swarm.models.footprint import Footprint
from swarm.models.memory import Held, Memory, taken_bytes
from swarm.models.store import LocalModel
from swarm.node import hosting as hosting_module
from swarm.node.door_models import DoorModels
from swarm.node.holding import Holding
from swarm.node.hosting import Hosting
from swarm.node.library import Library
from swarm.routing.view import SwarmView
from swarm.types import LayerSpan, ModelId, NodeId

MB = 1_000_000
PROGRAM = 500 * MB
LARGE, SMALL = ModelId("large", "1" * 64), ModelId("small", "2" * 64)
SIZES = {
    LARGE: Footprint((50 * MB,) * 10, (1000,) * 10, (None,) * 10, 100 * MB, 8192, "bfloat16"),
    SMALL: Footprint((20 * MB,) * 5, (1000,) * 5, (None,) * 5, 40 * MB, 8192, "bfloat16"),
}


def local(model: ModelId) -> LocalModel:
    spec = SimpleNamespace(layers=SIZES[model].layers, dtype="bfloat16")
    return cast(LocalModel, SimpleNamespace(id=model, spec=spec, lacks=lambda *_, **__: (), folder=Path()))


class Machine:
    """Everything around a Hosting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, megabytes: int, **settings: Any) -> None:
        monkeypatch.setattr(hosting_module, "footprint_of", lambda spec, *_: self._size_of(spec))
        self.kv_bytes = 0
        self.loaded: list[tuple[ModelId, LayerSpan | None]] = []
        self.fetched: list[str] = []
        self.said: list[str] = []
        self.models = {model: local(model) for model in SIZES}
        for one in self.models.values():
            vars(one)["manifest"] = None
        self.hosting = Hosting(
            node=NodeId("n" * 32),
            settings=ModelSettings(**settings),
            library=cast(Library, self),
            engine=cast(Engine, self),
            memory=Memory(megabytes * MB, door=bool(settings.pop("door", False)), overhead_bytes=PROGRAM),
            announce=self.said.append,
            on_change=lambda: None,
            drain=self.drain,
            computed_in=lambda asked, checkpoint: checkpoint,
        )
        self.holding = Holding(
            node=NodeId("n" * 32),
            settings=ModelSettings(**settings),
            library=cast(Library, self),
            hosting=self.hosting,
            view=lambda: SwarmView(layers={model: sizes.layers for model, sizes in SIZES.items()}),
            announce=self.said.append,
            joined=self.joined,
        )

    async def hold(self) -> None:
        """Run until everything that was told is held."""
        running = asyncio.create_task(self.holding.run())
        while not self.hosting.settled_once and not running.done():  # noqa: ASYNC110 (it only polls a fake)
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if not self.hosting.settled_once:
            await running

    def _size_of(self, spec: Any) -> Footprint:
        return next(sizes for sizes in SIZES.values() if sizes.layers == spec.layers)

    # --- the library ---

    async def joined(self) -> None: ...

    async def named(self, name: str, **_: Any) -> LocalModel:
        return next(one for model, one in self.models.items() if model.name == name)

    async def complete(self, one: LocalModel, *_: Any, **__: Any) -> LocalModel:
        return one

    async def described(self, model: ModelId) -> LocalModel:
        return self.models[model]

    async def for_door(self, model: ModelId) -> LocalModel:
        self.fetched.append(model.name)
        return self.models[model]

    # --- the engine ---

    async def load_span(self, one: LocalModel, span: LayerSpan, *_: Any) -> Any:
        self.loaded.append((one.id, span))
        return SimpleNamespace(
            model=one.id, span=span, dtype="bfloat16", quantize="none", weight_bytes=1,
            seconds_per_layer=0.001, seconds_per_row=0.0001,
        )  # fmt: skip

    async def load_ends(self, one: LocalModel, _dtype: str) -> Any:
        self.loaded.append((one.id, None))
        return SimpleNamespace(head_seconds=0.001)

    async def seconds_per_byte(self, _dtype: str) -> float:
        return 1e-10

    async def unload_span(self, *_: Any) -> None: ...

    def limit_memory(self, *, kv_bytes: int, second_copy_bytes: int) -> None:
        self.kv_bytes = kv_bytes

    async def drain(self, *_: Any) -> int:
        return 0


def choices(**layers: str | LayerSpan) -> tuple[ModelChoice, ...]:
    return tuple(ModelChoice(name, span) for name, span in layers.items())


def need(model: ModelId, layers: int) -> int:
    return taken_bytes(Held(SIZES[model], (LayerSpan(0, layers),)))


async def test_pinned_spans_of_two_models_share_the_memory_and_the_program_counts_once(monkeypatch):
    told = choices(large=LayerSpan(0, 4), small=LayerSpan(0, 5))
    machine = Machine(monkeypatch, 850, model=told)
    await machine.hold()
    assert sorted(machine.loaded) == [(LARGE, LayerSpan(0, 4)), (SMALL, LayerSpan(0, 5))]
    assert machine.kv_bytes == (850 - 500 - 4 * 50 - 5 * 20) * MB


async def test_two_spans_that_do_not_fit_together_are_refused_before_either_is_loaded(monkeypatch):
    machine = Machine(monkeypatch, 700, model=choices(large=LayerSpan(0, 4), small=LayerSpan(0, 5)))
    with pytest.raises(ExceptionGroup) as caught:
        await machine.hold()
    assert caught.group_contains(DoesNotFitError, match="layers 0:4 of large in bfloat16 need")
    assert machine.loaded == []


async def test_the_ends_that_a_door_fetches_take_from_the_kv_cache_and_are_refused_when_nothing_is_left(
    monkeypatch,
):
    machine = Machine(monkeypatch, 760, model=choices(large=LayerSpan(0, 4)))
    await machine.hold()
    assert machine.kv_bytes == 60 * MB
    said: list[str] = []
    door = DoorModels(
        library=cast(Library, SimpleNamespace(
            models=machine.models, described=machine.described, for_door=machine.for_door
        )),
        hosting=machine.hosting,
        wait_seconds=5.0,
        on_change=lambda: None,
        announce=said.append,
    )  # fmt: skip
    monkeypatch.setattr(machine.hosting, "tokenizer", machine.complete)
    await door.ready(SMALL)
    assert (SMALL, None) in machine.loaded
    assert machine.kv_bytes == 20 * MB
    with pytest.raises(DoesNotFitError, match="embedding, norm and head of large"):
        await door.ready(LARGE)
    assert machine.fetched == ["small"], "what does not fit is not fetched either"
    assert "MiB" in door.problem(LARGE)
