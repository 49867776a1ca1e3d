"""A hop at work, with an engine and a bus that only take notes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest

from swarm.config import SessionSettings
from swarm.engine.jobs import StepResult
from swarm.errors import BadTensorError, KVFullError, LinkDownError
from swarm.node.meters import Meters
from swarm.node.stage_service import BUSY_SECONDS, MAX_LINKS_AWAITED, STUCK_SECONDS, StageService
from swarm.protocol.messages import (
    Busy,
    CloseSession,
    Drain,
    Filled,
    Hop,
    Opened,
    OpenSession,
    Output,
    Refused,
    Replay,
    Step,
)
from swarm.sessions.hop import HopSessions
from swarm.types import BootId, LayerSpan, ModelId, NodeId, SessionId

ME, ORIGIN = NodeId("me"), NodeId("origin")
BOOT = BootId(b"mybootid")
SESSION = SessionId(b"s" * 16)
MODEL = ModelId("org/model", "0" * 64)
HOPS = (Hop(ME, BOOT, LayerSpan(0, 4)),)
NEXT = NodeId("next")
TWO_HOPS = (Hop(ME, BOOT, LayerSpan(0, 2)), Hop(NEXT, BootId(b"nextboot"), LayerSpan(2, 4)))
OTHER_SPAN = LayerSpan(0, 6)


class FakeEngine:
    def __init__(self) -> None:
        self.jobs: list = []
        self.closed: list = []
        self.steps = 0
        self.full = False
        self.rooms = 100
        """Sessions there is room for when one grows."""
        self.stage = LayerSpan(0, 4)
        self.opened = 0

    def open(self, *_: object, **__: object) -> int:
        if self.full:
            raise KVFullError(10, 5)
        self.opened += 1
        return 0

    def grow(self, key: object, tokens: int) -> None:
        if self.full or self.opened - len(self.closed) > self.rooms:
            raise KVFullError(10, 5)

    def truncate(self, key: object, length: int) -> None: ...

    def floor(self, key: object) -> int:
        return 0

    def stage_of(self, key: object) -> object:
        return None if key in self.closed else (MODEL, self.stage)

    def retire_span(self, model: object, span: object) -> None:
        self.stage = OTHER_SPAN

    def close(self, key: object, blocks: object = ()) -> None:
        self.closed.append(key)

    def submit(self, job: object) -> None:
        self.jobs.append(job)

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(steps=self.steps, kv_budget_bytes=100)

    def reserved_bytes(self, key: object) -> int:
        return 10


class Hopside:
    """A stage service on a clock of its own; ``sent`` is what left it."""

    def __init__(self, *, spawn: Callable[..., object] | None = None, linked: bool = True) -> None:
        self.now = 100.0
        self.engine = FakeEngine()
        self.sent: list = []
        self.passed: list = []
        self.unreachable: set[NodeId] = set()
        bus = SimpleNamespace(send=self._send, linked=lambda node: linked)
        self.service = StageService(
            sessions=HopSessions(
                node=ME, boot=BOOT, lease_seconds=12.0, max_per_origin=MAX_LINKS_AWAITED + 1
            ),
            engine=self.engine,  # type: ignore[arg-type]
            bus=bus,  # type: ignore[arg-type]
            settings=SessionSettings(),
            node=ME,
            kv_share=0.5,
            connect=_never,
            spawn=spawn or _never_spawned,
            clock=lambda: self.now,
            meters=Meters(),
            passed=lambda *passed: self.passed.append(passed),
        )

    def _send(self, node: NodeId, message: object, payload: bytes = b"") -> None:
        if node in self.unreachable:
            raise LinkDownError(node, "no link")
        self.sent.append((node, message, payload))

    def open(
        self, kv_tokens: int = 16, *, hops: tuple[Hop, ...] = HOPS, epoch: int = 1, keep: int = 0
    ) -> None:
        message = OpenSession(ORIGIN, SESSION, epoch, MODEL, "bfloat16", hops, 0, kv_tokens, keep, 1000)
        self.service.on_open(ORIGIN, message)

    def step(self, number: int = 0, position: int = 0, count: int = 1, *, fill_until: int = 0) -> None:
        step = Step(ORIGIN, SESSION, 1, number, position, count, 4, "bfloat16", "last", (), fill_until)
        self.service.on_step(ORIGIN, step, memoryview(bytes(8 * count)))

    def result(self, **changes: object) -> None:
        job = self.engine.jobs[-1]
        values = {"hidden": bytes(8), "count": 1, "error": None, "batch_rows": 1, **changes}
        self.service.on_result(
            StepResult(
                job.tag,
                job.key,
                job.position,
                values["count"],
                values["hidden"],
                "bfloat16",
                0.0,
                0.01,
                values["batch_rows"],
                values["error"],
            )
        )

    def messages(self, kind: type) -> list:
        return [message for _, message, _ in self.sent if isinstance(message, kind)]


async def _never(node: NodeId) -> None:
    raise AssertionError("nothing to connect to")


def _never_spawned(work: Awaitable[None]) -> Callable[[], None]:
    raise AssertionError("nothing to spawn")


@pytest.fixture
def hop() -> Hopside:
    made = Hopside()
    made.open()
    return made


def test_a_computed_step_of_the_last_hop_is_answered_to_the_origin_with_its_times(hop):
    hop.step()
    hop.result()
    assert hop.messages(Opened)
    (output,) = hop.messages(Output)
    assert output.count == 1
    assert len(output.times) == 1


def test_only_a_pass_that_a_step_had_for_itself_says_how_fast_a_span_is(hop):
    hop.step()
    hop.result(batch_rows=7)
    assert hop.passed == []
    hop.step(1, 1, 5)
    hop.result(batch_rows=5)
    assert [(rows, seconds) for _, _, rows, seconds in hop.passed] == [(5, 0.01)]


def test_a_full_engine_refuses_and_reserves_nothing():
    hop = Hopside()
    hop.engine.full = True
    hop.open()
    (refused,) = hop.messages(Refused)
    assert refused.code == "full"
    assert hop.service.session_count == 0


def test_an_answer_that_outgrows_a_full_engine_is_refused_and_freed(hop):
    hop.engine.full = True
    hop.step(count=32)
    assert [refused.code for refused in hop.messages(Refused)] == ["full"]
    assert hop.engine.closed
    assert hop.service.session_count == 0


def test_links_to_next_hops_are_awaited_for_so_many_sessions_at_once_only():
    awaited: list = []
    hop = Hopside(spawn=awaited.append, linked=False)
    for number in range(MAX_LINKS_AWAITED + 1):
        session = SessionId(number.to_bytes(16, "big"))
        message = OpenSession(ORIGIN, session, 1, MODEL, "bfloat16", HOPS, 0, 16, 0, 1000)
        hop.service.on_open(ORIGIN, message)
    assert [message.code for message in hop.messages(Refused)] == ["full"]
    assert len(awaited) == MAX_LINKS_AWAITED
    for work in awaited:
        work.close()


def test_a_draining_hop_takes_no_new_session():
    hop = Hopside()
    hop.service.draining = True
    hop.open()
    assert [message.code for message in hop.messages(Refused)] == ["draining"]
    assert hop.messages(Opened) == []


def test_a_session_that_grows_ends_the_youngest_and_tells_its_origin(hop):
    other = OpenSession(NodeId("other"), SessionId(b"t" * 16), 1, MODEL, "bfloat16", HOPS, 0, 16, 0, 1000)
    hop.service.on_open(NodeId("other"), other)
    hop.engine.rooms = 1
    hop.step(count=17)
    assert [(to, message.code) for to, message, _ in hop.sent if isinstance(message, Refused)] == [
        (NodeId("other"), "full")
    ]
    assert len(hop.engine.closed) == 1
    assert len(hop.engine.jobs) == 1


def test_a_failed_step_ends_the_session_and_says_why(hop):
    hop.step()
    hop.result(error=BadTensorError("NaN"))
    assert [refused.code for refused in hop.messages(Refused)] == ["bad_tensor"]
    assert hop.engine.closed


@pytest.mark.parametrize(
    ("place", "received", "blamed"), [(1, True, NEXT), (1, False, None), (0, True, None)]
)
def test_a_hop_that_got_bad_rows_names_the_hop_they_came_from(hop, place, received, blamed):
    hops = (
        HOPS
        if place == 0
        else (Hop(NEXT, BootId(b"nextboot"), LayerSpan(0, 1)), Hop(ME, BOOT, LayerSpan(1, 4)))
    )
    hop.service.on_open(ORIGIN, OpenSession(ORIGIN, SESSION, 1, MODEL, "bfloat16", hops, place, 16, 0, 1000))
    sender = NEXT if place else ORIGIN
    message = Step(ORIGIN, SESSION, 1, 0, 0, 1, 2, "bfloat16", "last", index=place)
    hop.service.on_step(sender, message, memoryview(bytes(4)))
    hop.result(error=BadTensorError("NaN", received=received))
    (refused,) = hop.messages(Refused)
    assert (refused.code, refused.next) == ("bad_tensor", blamed)


def test_a_result_that_comes_after_the_close_goes_nowhere(hop):
    hop.step()
    hop.service.on_close(ORIGIN, CloseSession(ORIGIN, SESSION, 1))
    hop.result()
    assert hop.messages(Output) == []


def ticks(hop: Hopside, seconds: float) -> None:
    for _ in range(int(seconds / 0.05)):
        hop.now += 0.05
        hop.service.tick()


def test_origins_hear_that_a_long_step_is_being_worked_on_but_not_at_every_tick(hop):
    hop.step()
    ticks(hop, 4.0)
    assert 4.0 / BUSY_SECONDS / 2 < len(hop.messages(Busy)) <= 4.0 / BUSY_SECONDS


def test_a_compute_thread_that_finishes_nothing_is_no_longer_called_busy(hop):
    hop.step()
    ticks(hop, STUCK_SECONDS + 0.5)
    said = len(hop.messages(Busy))
    ticks(hop, 1.0)
    assert len(hop.messages(Busy)) == said


def test_a_silent_origin_loses_its_session_when_the_lease_ends(hop):
    ticks(hop, 12.5)
    assert hop.service.session_count == 0
    assert hop.engine.closed


@pytest.fixture
def first_of_two() -> Hopside:
    made = Hopside()
    made.open(hops=TWO_HOPS)
    return made


def test_what_a_step_gave_is_sent_on_and_can_be_replayed_to_another_node(first_of_two):
    hop = first_of_two
    hop.step(count=2)
    hop.result(hidden=b"rowArowArowBrowB", count=2)
    other = NodeId("other")
    hop.service.on_replay(ORIGIN, Replay(ORIGIN, SESSION, 1, 0, 7, 1, 1, 2, other, 5, 1))
    assert [node for node, message, _ in hop.sent if isinstance(message, Step)] == [NEXT, other]
    _, message, payload = hop.sent[-1]
    assert (message.epoch, message.step, message.position, message.fill_until) == (5, 7, 1, 2)
    assert payload == b"rowBrowB"


def test_a_fill_step_is_answered_to_the_origin_by_the_last_hop_it_is_for(first_of_two):
    hop = first_of_two
    hop.step(count=2, fill_until=1)
    hop.result(hidden=bytes(16), count=2)
    (filled,) = hop.messages(Filled)
    assert (filled.position, filled.index, len(filled.times)) == (2, 0, 1)
    assert hop.messages(Step) == []
    hop.step(number=1, position=2, count=1, fill_until=2)
    hop.result(hidden=bytes(8), count=1)
    (onward,) = hop.messages(Step)
    assert (onward.fill_until, onward.index) == (2, 1)


def test_a_next_hop_that_can_not_be_reached_costs_this_one_nothing(first_of_two):
    hop = first_of_two
    hop.unreachable.add(NEXT)
    hop.step()
    hop.result()
    (refused,) = hop.messages(Refused)
    assert (refused.code, refused.next) == ("unreachable", NEXT)
    assert hop.service.session_count == 1
    hop.open(hops=TWO_HOPS, epoch=2, keep=1)
    assert hop.messages(Opened)[-1].kv_length == 1


def test_a_draining_node_takes_nothing_new_asks_origins_to_move_and_keeps_what_runs(hop):
    hop.service.drain()
    assert hop.messages(Drain) == [Drain()]
    other = OpenSession(ORIGIN, SessionId(b"o" * 16), 1, MODEL, "bfloat16", HOPS, 0, 16, 0, 1000)
    hop.service.on_open(ORIGIN, other)
    assert [refused.code for refused in hop.messages(Refused)] == ["draining"]
    hop.open(epoch=2)
    assert [opened.epoch for opened in hop.messages(Opened)] == [1, 2]
    assert hop.service.foreign_sessions == 1


def test_the_sessions_of_a_span_that_goes_away_are_asked_to_move_and_cut_off_at_the_end(hop):
    span = hop.engine.stage
    assert hop.service.sessions_on(MODEL, span) == 1
    hop.engine.retire_span = lambda model, gone: None
    hop.service.retire(MODEL, span)
    assert hop.messages(Drain) == [Drain((SESSION,))]
    assert hop.service.end_sessions_on(MODEL, span) == 1
    assert [refused.code for refused in hop.messages(Refused)] == ["draining"]
    assert hop.service.sessions_on(MODEL, span) == 0


def test_a_session_that_comes_back_to_a_node_moves_to_the_span_that_stays(hop):
    hop.step()
    hop.result()
    hop.engine.retire_span = lambda model, gone: None
    hop.service.retire(MODEL, hop.engine.stage)
    hop.open(epoch=2, keep=1)
    assert hop.engine.opened == 2
    assert hop.messages(Opened)[-1].kv_length == 0
