"""The mover, with a hosting that only notes what it is asked."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from swarm.node import mover as mover_module
from swarm.node.mover import Mover
from swarm.routing.placement import Machine
from swarm.routing.placer import Placer
from swarm.routing.view import SpanView, SwarmView
from swarm.types import BootId, LayerSpan, ModelId, NodeId

MODEL = ModelId("tiny", "0" * 64)
ME, OTHER = NodeId("m" * 32), NodeId("o" * 32)


class Hosting:
    """Slow at first: the machine is busy. Measuring again shows how fast it really is."""

    def __init__(self) -> None:
        self.frozen = False
        self.seconds = 1.0
        self.loaded: list[LayerSpan] = []
        self.measured = 0

    def machine(self, local: Any) -> Machine:
        return Machine(ME, self.seconds, (4, 4, 4, 4))

    def fits_beside(self, local: Any, span: LayerSpan | None) -> bool:
        return True

    def intend(self, local: Any, span: LayerSpan | None, *, firm: bool) -> None:
        return None

    async def measure(self, local: Any) -> None:
        self.measured += 1
        self.seconds = 0.01

    async def settled(self, local: Any) -> None:
        return None

    async def load(self, local: Any, span: LayerSpan) -> None:
        self.loaded.append(span)
        self.frozen = True


async def test_a_node_left_out_as_too_slow_measures_itself_again_and_serves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mover_module, "LOOK_SECONDS", 0.0)
    view = SwarmView(
        (SpanView(OTHER, BootId(b"bootboot"), MODEL, LayerSpan(0, 4), "float32", 0.01),), others=1
    )
    hosting, said = Hosting(), []
    times = iter(range(10_000))
    placer = Placer(ME, MODEL, max)
    mover = Mover(
        placer,
        hosting=hosting,
        view=lambda: view,
        announce=said.append,
        clock=lambda: float(next(times)),
        turn=asyncio.Lock(),
    )  # type: ignore[arg-type]
    await mover.run(SimpleNamespace(id=MODEL), must_load=True)  # type: ignore[arg-type]
    assert hosting.measured == 1
    assert hosting.loaded == [LayerSpan(0, 4)]
    assert "without layers" in said[0]
