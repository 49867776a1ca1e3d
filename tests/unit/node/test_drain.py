"""When a node, or one of its spans, counts as drained."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from swarm.node import drain
from swarm.node.drain import Drainer
from swarm.types import LayerSpan, ModelId

MODEL, SPAN = ModelId("org/model", "0" * 64), LayerSpan(0, 4)


class Scene:
    """A stage and an origin that have so many sessions left; every look at the clock takes a while."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, foreign: int = 0, own: int = 0, on_span: int = 0
    ) -> None:
        monkeypatch.setattr(drain, "POLL_SECONDS", 0.0)
        self.now = 0.0
        self.said: list[str] = []
        self.on_span = on_span
        self.asked = self.ended = 0
        self.stage = SimpleNamespace(
            foreign_sessions=foreign,
            drain=lambda: self.said.append("drain"),
            retire=self._retire,
            sessions_on=lambda model, span: self.on_span,
            end_sessions_on=self._end,
        )
        self.origin = SimpleNamespace(running=own, draining=False)
        self.drainer = Drainer(
            stage=self.stage,  # type: ignore[arg-type]
            origin=self.origin,  # type: ignore[arg-type]
            seconds=25.0,
            tell_members=lambda: self.said.append("record"),
            announce=self.said.append,
            clock=self._clock,
        )

    def _clock(self) -> float:
        self.now += 0.5
        return self.now

    def _retire(self, model: ModelId, span: LayerSpan) -> None:
        self.asked += 1

    def _end(self, model: ModelId, span: LayerSpan) -> int:
        self.ended, self.on_span = self.on_span, 0
        return self.ended


async def turns() -> None:
    """Let whatever polls do so a few times."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_idle_node_leaves_without_waiting_and_without_many_words(monkeypatch):
    scene = Scene(monkeypatch)
    await scene.drainer.drain(asyncio.Event())
    assert scene.said == ["drain", "record"]
    assert scene.origin.draining
    assert scene.now < 2


@pytest.mark.parametrize("left", ["foreign", "own"])
async def test_a_busy_node_waits_until_nothing_is_left(monkeypatch, left):
    scene = Scene(monkeypatch, **{left: 1})
    waiting = asyncio.create_task(scene.drainer.drain(asyncio.Event()))
    await turns()
    assert not waiting.done()
    scene.stage.foreign_sessions = scene.origin.running = 0
    await waiting
    assert scene.now < 25


async def test_a_node_that_can_not_be_emptied_leaves_in_time(monkeypatch):
    scene = Scene(monkeypatch, foreign=1)
    await scene.drainer.drain(asyncio.Event())
    assert 25 <= scene.now < 28


async def test_a_second_signal_ends_the_waiting(monkeypatch):
    scene, at_once = Scene(monkeypatch, foreign=1), asyncio.Event()
    waiting = asyncio.create_task(scene.drainer.drain(at_once))
    await asyncio.sleep(0)
    at_once.set()
    await waiting
    assert scene.now < 25


async def test_a_span_is_drained_when_no_session_uses_it_and_origins_are_asked_again(monkeypatch):
    scene = Scene(monkeypatch, on_span=2)
    draining = asyncio.create_task(scene.drainer.drain_span(MODEL, SPAN, 60.0))
    await turns()
    assert scene.asked > 2
    scene.on_span = 0
    assert await draining == 0


async def test_a_span_without_sessions_is_closed_to_new_ones_all_the_same(monkeypatch):
    scene = Scene(monkeypatch)
    assert await scene.drainer.drain_span(MODEL, SPAN, 60.0) == 0
    assert scene.asked == 1


async def test_what_does_not_leave_a_span_is_cut_off(monkeypatch):
    scene = Scene(monkeypatch, on_span=3)
    assert await scene.drainer.drain_span(MODEL, SPAN, 5.0) == 3
