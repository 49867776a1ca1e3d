"""Which outputs an origin samples from: the one it waits for, once, from whom it comes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarm.config import EngineSettings, SessionSettings
from swarm.protocol.messages import Hop, Opened, Output, Step
from swarm.sessions.effects import ChosenPath, Embed, Sample, Send
from swarm.sessions.origin import OriginSession, Request
from swarm.types import BootId, LayerSpan, ModelId, NodeId, SessionId

ORIGIN, HOP, STRANGER = NodeId("origin"), NodeId("hop"), NodeId("stranger")
PATH = ChosenPath((Hop(HOP, BootId(b"hopsboot"), LayerSpan(0, 4)),), "bfloat16", 0.01)
ROW = bytes(4)


class Driven:
    """An origin with one hop, and the outputs it was given last."""

    def __init__(self) -> None:
        self.core = OriginSession(
            Request(
                origin=ORIGIN,
                session=SessionId(bytes(16)),
                model=ModelId("org/model", "0" * 64),
                prompt=(1, 2, 3),
                max_tokens=8,
                context_tokens=64,
                hidden_size=2,
                stop_ids=frozenset(),
                deadline=100.0,
                admission_until=10.0,
            ),
            SessionSettings(),
            EngineSettings(),
            0.0,
        )
        self.core.effects()
        self.core.path_found(PATH, 0.0)
        self.core.effects()
        opened = Opened(ORIGIN, SessionId(bytes(16)), self.core.epoch, 0, 0, index=0)
        self.core.opened(HOP, opened, 0.0)
        assert any(isinstance(effect, Embed) for effect in self.core.effects())
        self.core.embedded(self.core.epoch, ROW * 3, 0.0)
        (self.step,) = [
            effect.message
            for effect in self.core.effects()
            if isinstance(effect, Send) and isinstance(effect.message, Step)
        ]

    @property
    def output(self) -> Output:
        step = self.step
        return Output(
            ORIGIN, SessionId(bytes(16)), step.epoch, step.step, step.position, 1, 2, "bfloat16", ()
        )

    def samples(self, output: Output, sender: NodeId = HOP) -> int:
        self.core.output(sender, output, ROW, 0.0)
        return sum(isinstance(effect, Sample) for effect in self.core.effects())


@pytest.fixture
def driven() -> Driven:
    return Driven()


def test_the_output_that_is_waited_for_is_sampled(driven: Driven):
    assert driven.samples(driven.output) == 1


def test_an_output_of_a_stranger_is_not_sampled(driven: Driven):
    assert driven.samples(driven.output, STRANGER) == 0
    assert driven.samples(driven.output) == 1


@pytest.mark.parametrize("by", [-1, 1])
def test_an_output_of_an_old_epoch_is_not_sampled(driven: Driven, by: int):
    assert driven.samples(replace(driven.output, epoch=driven.output.epoch + by)) == 0
    assert driven.samples(driven.output) == 1


def test_an_output_that_comes_again_is_not_sampled_again(driven: Driven):
    assert driven.samples(driven.output) == 1
    driven.core.sampled([5], [None], ROW, 0.0)
    driven.core.effects()
    assert driven.samples(driven.output) == 0
    assert driven.core.accepted == [5]
