"""What a node is told to hold, changed while it runs, over a hosting that only notes what is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from swarm.config import ModelSettings
from swarm.errors import ConfigError, ModelError, UnknownModelError
from swarm.node import mover
from swarm.node.holding import Holding
from swarm.routing.pinning import NobodyElseError
from swarm.routing.placement import Machine
from swarm.routing.view import SpanView, SwarmView
from swarm.types import BootId, LayerSpan, ModelId, NodeId

LAYERS = 10
ONE, TWO = (
    SimpleNamespace(id=ModelId(name, "0" * 64), spec=SimpleNamespace(layers=LAYERS))
    for name in ("one", "two")
)
ME, OTHER = NodeId("m" * 32), NodeId("o" * 32)


class Scene:
    """A node's hosting, library and view. Layers fit as long as ``room`` of them are held."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, others: str = "", room: int = 100, **settings: Any
    ) -> None:
        monkeypatch.setattr(mover, "LOOK_SECONDS", 0.0)
        self.frozen, self.expected, self.room = False, 1, room
        self.held: list[tuple[ModelId, LayerSpan]] = []
        self.did: list[str] = []
        self.meant: list[str | None] = []
        self.fails: str = ""
        self.others = [LayerSpan.parse(span) for span in others.split()]
        self.models = {"one": ONE, "two": TWO}
        self.holding = Holding(
            node=ME,
            settings=ModelSettings(**settings),
            library=self,  # type: ignore[arg-type]
            hosting=self,  # type: ignore[arg-type]
            view=self.view,
            announce=self.did.append,
            joined=self._nothing,
        )

    # the library

    def resolve(self, name: str) -> ModelId:
        if name not in self.models:
            raise UnknownModelError(name, [])
        return self.models[name].id

    async def exactly(self, model: ModelId, **_: Any) -> Any:
        return self.models[model.name]

    async def named(self, name: str, **_: Any) -> Any:
        if name not in self.models:
            raise ModelError(f"there is no {name}")
        return self.models[name]

    # the hosting

    def spans_of(self, local: Any) -> list[LayerSpan]:
        return [span for model, span in self.held if model == local.id]

    def private_spans(self, local: Any) -> tuple[LayerSpan, ...]:
        return ()

    def fits(self, local: Any, spans: Any) -> bool:
        return sum(map(len, spans)) <= self.room

    def fits_beside(self, local: Any, span: LayerSpan | None) -> bool:
        return True

    def check_fits(self, local: Any, spans: Any) -> None:
        if not self.fits(local, spans):
            raise ModelError("does not fit")

    def machine(self, local: Any) -> Machine:
        return Machine(ME, 0.01, (LAYERS,) * LAYERS)

    def intend(self, local: Any, span: LayerSpan | None, *, firm: bool) -> None:
        self.meant.append(None if span is None else f"{span}{' firm' if firm else ''}")

    def doing(self, model: ModelId) -> str:
        return ""

    async def load(self, local: Any, span: LayerSpan) -> None:
        await asyncio.sleep(0)
        if self.fails == str(span):
            raise ModelError("the disk is broken")
        self.did.append(f"load {span}")
        self.held.append((local.id, span))

    async def retire(self, local: Any, span: LayerSpan) -> None:
        self.held.remove((local.id, span))
        self.did.append(f"retire {span}")

    async def _nothing(self, *_: Any) -> None: ...

    measure = settled = _nothing

    def settle(self) -> None: ...

    # the swarm

    def view(self) -> SwarmView:
        boot = BootId(b"bootboot")
        spans = [(OTHER, ONE.id, span) for span in self.others] + [(ME, *held) for held in self.held]
        return SwarmView(
            tuple(SpanView(node, boot, model, span, "float32", 0.01) for node, model, span in spans),
            layers={ONE.id: LAYERS},
        )

    async def until(self, done: Any) -> None:
        for _ in range(1000):
            if done():
                return
            await asyncio.sleep(0)
        raise TimeoutError(self.did)

    def loaded(self) -> list[str]:
        return [str(span) for _, span in self.held]

    async def __aenter__(self) -> Scene:
        self.task = asyncio.create_task(self.holding.run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.frozen = True
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def pinned(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with Scene(monkeypatch, others="0:10", model=("one",), layers=LayerSpan(0, 5)) as scene:
        await scene.until(lambda: scene.loaded() == ["0:5"])
        yield scene


async def test_who_is_told_its_layers_tells_the_others_while_it_loads_them(pinned: Scene):
    assert pinned.meant == ["0:5 firm", None]


async def test_the_new_span_is_there_before_the_old_one_goes(pinned: Scene):
    shown = await pinned.holding.change("", "3:8")
    assert pinned.did == ["load 0:5", "load 3:8", "retire 0:5"]
    assert (shown["told"], shown["layers"]) == ("3:8", ["3:8"])


async def test_a_load_that_fails_leaves_everything_as_it_was(pinned: Scene):
    pinned.fails = "3:8"
    with pytest.raises(ModelError, match="disk is broken"):
        await pinned.holding.change("one", "3:8")
    assert pinned.loaded() == ["0:5"]
    assert pinned.holding.state()[0]["told"] == "0:5"


async def test_layers_that_others_left_while_the_new_ones_loaded_are_kept(pinned: Scene):
    changing = asyncio.create_task(pinned.holding.change("one", "5:10"))
    await asyncio.sleep(0)
    pinned.others = [LayerSpan(4, 10)]
    with pytest.raises(NobodyElseError, match="others left them meanwhile"):
        await changing
    assert pinned.loaded() == ["0:5", "5:10"]


async def test_a_model_is_added_shares_the_memory_and_is_left(pinned: Scene):
    await pinned.holding.change("two", "0:4", force=True)
    assert pinned.expected == 2
    assert [one["model"] for one in pinned.holding.state()] == ["one", "two"]
    with pytest.raises(ConfigError, match="say which model"):
        await pinned.holding.change("", "0:2")
    with pytest.raises(NobodyElseError):
        await pinned.holding.change("two", "none")
    await pinned.holding.change("two", "none", force=True)
    assert pinned.loaded() == ["0:5"]
    assert (pinned.expected, len(pinned.holding.state())) == (1, 1)


@pytest.mark.parametrize(
    ("model", "layers", "error"),
    [
        ("one", "5", ConfigError),
        ("one", "5:11", ConfigError),
        ("two", "none", ConfigError),
        ("nobody", "0:1", ModelError),
        ("two", "0:9", ModelError),
    ],
)
async def test_what_can_not_be_is_refused_and_nothing_is_remembered(pinned: Scene, model, layers, error):
    pinned.room = 8
    with pytest.raises(error):
        await pinned.holding.change(model, layers)
    assert pinned.did == ["load 0:5"]
    assert [one["told"] for one in pinned.holding.state()] == ["0:5"]
    assert pinned.expected == 1


async def test_a_node_that_chose_for_itself_is_told_and_then_chooses_again(monkeypatch: pytest.MonkeyPatch):
    async with Scene(monkeypatch, others="0:6", model=("one",)) as scene:
        await scene.until(lambda: len(scene.loaded()) == 1)
        chosen = scene.loaded()
        assert scene.holding.state()[0]["told"] == "auto"
        with pytest.raises(NobodyElseError):
            await scene.holding.change("", "0:3")
        assert (await scene.holding.change("", "0:10"))["layers"] == ["0:10"]
        assert chosen != ["0:10"]
        # Told what to hold it stays, though layers 0:6 go missing elsewhere.
        await scene.holding.change("", "5:10")
        scene.others = []
        for _ in range(50):
            await asyncio.sleep(0)
        assert scene.loaded() == ["5:10"]
        assert (await scene.holding.change("", "auto"))["told"] == "auto"
        assert scene.loaded() == ["5:10"]


async def test_a_node_that_was_told_nothing_takes_what_its_user_names(monkeypatch: pytest.MonkeyPatch):
    async with Scene(monkeypatch, layers="none") as scene:
        assert (await scene.holding.change("two", "2:4"))["layers"] == ["2:4"]
