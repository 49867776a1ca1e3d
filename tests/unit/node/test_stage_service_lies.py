"""A hop that is told anything at all: it raises nothing but ProtocolError, and sends only what has a frame."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.config import SessionSettings
from swarm.engine.jobs import StepJob, StepResult
from swarm.errors import BadTensorError, KVFullError, LinkDownError, ModelError, ProtocolError
from swarm.node.bus import Bus
from swarm.node.meters import Meters
from swarm.node.stage_service import StageService
from swarm.protocol.codec import encode
from swarm.protocol.messages import (
    CloseSession,
    Hop,
    HopTime,
    Need,
    OpenSession,
    Renew,
    Replay,
    Step,
)
from swarm.sessions.hop import HopSessions
from swarm.types import BootId, LayerSpan, ModelId, NodeId, SessionId

ME, OTHER, THIRD = (NodeId(letter * 32) for letter in "mot")
BOOT = BootId(b"mybootid")
MODEL = ModelId("org/model", "0" * 64)
HIDDEN = 4
ids = st.sampled_from([ME, ME, OTHER, OTHER, THIRD])
sessions = st.sampled_from([SessionId(bytes(16)), SessionId(bytes([1]) * 16)])
small = st.integers(0, 3)
numbers = st.sampled_from([-(1 << 40), -1, 0, 0, 1, 1, 2, 3, 5, 1 << 40])
dtypes = st.sampled_from(["bfloat16", "bfloat16", "float32"])
told = st.lists(st.builds(HopTime, numbers, numbers, numbers), max_size=3).map(tuple)
hops = st.lists(
    st.builds(lambda node, at: Hop(node, BOOT, LayerSpan(at, at + 2)), ids, small), min_size=1, max_size=3
)
messages = st.one_of(
    st.builds(
        OpenSession, ids, sessions, small, st.just(MODEL), dtypes, hops.map(tuple), small,
        st.sampled_from([-1, 0, 8, 64, 1 << 40]), numbers, numbers,
    ),
    st.builds(
        Step, ids, sessions, small, small, numbers, st.integers(0, 3), st.just(HIDDEN), dtypes,
        st.sampled_from(["none", "last", "all"]), told, st.sampled_from([0, 0, 1, 2, 3, -1]), small,
    ),
    st.builds(Need, ids, sessions, small, numbers, numbers),
    st.builds(Renew, st.lists(sessions).map(tuple)),
    st.builds(CloseSession, ids, sessions, small, st.just(()), st.sampled_from([-1, -1, 0, 1, 2])),
    st.builds(Replay, ids, sessions, small, small, numbers, numbers, numbers, small, ids, small, small),
)  # fmt: skip


class Engine:
    """Takes all it is asked, up to a number of sequences; its results are drawn."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.reserved: dict[object, int] = {}
        self.jobs: list[StepJob] = []
        self.steps = 0

    def open(self, key: object, *_: object, **__: object) -> int:
        self.reserved.pop(key, None)
        if self.data.draw(st.integers(0, 9), label="model") == 0:
            raise ModelError("not here")
        return self._room(key)

    def _room(self, key: object) -> int:
        if key not in self.reserved and len(self.reserved) >= 2:
            raise KVFullError(10, 5)
        self.reserved[key] = 10
        return 0

    def grow(self, key: object, tokens: int) -> None:
        if self.data.draw(st.integers(0, 9), label="room") == 0 and len(self.reserved) > 1:
            raise KVFullError(10, 5)

    def truncate(self, key: object, length: int) -> None: ...

    def floor(self, key: object) -> int:
        return 0

    def stage_of(self, key: object) -> object:
        return (MODEL, LayerSpan(0, 8)) if key in self.reserved else None

    def close(self, key: object, blocks: object = ()) -> None:
        self.reserved.pop(key, None)

    def submit(self, job: StepJob) -> None:
        self.jobs.append(job)

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(steps=self.steps, kv_budget_bytes=100)

    def reserved_bytes(self, key: object) -> int:
        return self.reserved.get(key, 0)


class Node:
    """The real service and the real bus; what would go to others must have a frame."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.now = 0.0
        self.engine = Engine(data)
        network = SimpleNamespace(send=self._send, linked=lambda node: node != THIRD)
        self.bus = Bus(
            ME,
            network,
            self._deliver,
            connect=self._connect,
            unreachable=lambda _: None,
            spawn=self._spawn,  # type: ignore[arg-type]
        )
        self.service = StageService(
            sessions=HopSessions(node=ME, boot=BOOT, lease_seconds=12.0, max_per_origin=2),
            engine=self.engine,  # type: ignore[arg-type]
            bus=self.bus,
            settings=SessionSettings(),
            node=ME,
            kv_share=0.5,
            connect=self._connect,
            spawn=self._spawn,
            clock=lambda: self.now,
            meters=Meters(),
            passed=lambda *_: None,
        )

    async def _connect(self, node: NodeId) -> None:
        raise LinkDownError(node, "nobody answers there")

    def _spawn(self, work: object) -> None:
        assert isinstance(work, Coroutine)
        with contextlib.suppress(StopIteration):
            work.send(None)

    def _send(self, node: NodeId, message: object, payload: bytes = b"") -> None:
        encode(message, payload, number=1, part_bytes=65536)  # type: ignore[arg-type]
        if node == THIRD:
            raise LinkDownError(node, "no link")

    def _deliver(self, sender: NodeId, message: object, payload: memoryview) -> None:
        service = self.service
        match message:
            case Step():
                service.on_step(sender, message, payload)
            case OpenSession():
                service.on_open(sender, message)
            case CloseSession():
                service.on_close(sender, message)
            case Renew():
                service.on_renew(sender, message)
            case Need():
                service.on_need(sender, message)
            case Replay():
                service.on_replay(sender, message)

    def take(self, sender: NodeId, message: object) -> None:
        size = (
            message.count * HIDDEN * (4 if message.dtype == "float32" else 2)
            if isinstance(message, Step)
            else 0
        )
        with contextlib.suppress(ProtocolError):
            self._deliver(sender, message, memoryview(bytes(size)))

    def open_well(self) -> None:
        """A session as an origin could mean it, but for where its path leads."""
        draw = self.data.draw
        path = draw(hops)
        index = draw(st.integers(0, len(path) - 1))
        path[index] = Hop(ME, BOOT, path[index].span)
        origin, session, epoch = draw(ids), draw(sessions), draw(st.integers(1, 6))
        for place, hop in enumerate(path):
            if hop.node == ME:
                asked = OpenSession(
                    origin, session, epoch, MODEL, draw(dtypes), tuple(path), place, 64, draw(small), 1000
                )
                self.take(origin, asked)

    def go_on(self) -> None:
        """The next step of a session that is here, or a replay of what it had, but for a few fields."""
        draw = self.data.draw
        held = list(self.service._sessions)
        if not held:
            return
        session = draw(st.sampled_from(held), label="session")
        (origin, name, _), epoch, place = session.key, session.epoch, session.place
        if draw(st.integers(0, 3)) == 0:
            position = draw(st.integers(0, max(0, session.length - 1)))
            to, until = draw(small), draw(small)
            message = Replay(origin, name, epoch, place, 0, position, 1, until, draw(ids), draw(small), to)
            self.take(origin, message)
            return
        fill = draw(st.sampled_from([0, 0, 0, place + 1, 3]))
        times = (HopTime(1, 1, 1),) * draw(st.sampled_from([place, place, place, 2040]), label="times")
        self.take(
            session.upstream,
            Step(
                origin,
                name,
                epoch,
                session.next_step,
                session.length,
                draw(st.integers(1, 3)),
                HIDDEN,
                session.dtype,
                "last",
                times,
                fill,
                place,
            ),
        )

    def compute(self) -> None:
        """The compute thread's results: what they cause must raise nothing at all."""
        if not self.engine.jobs:
            return
        job = self.engine.jobs.pop(0)
        self.engine.steps += 1
        bad = self.data.draw(st.integers(0, 5), label="fails") == 0
        rows = {"none": 0, "last": 1, "all": job.count}[job.rows]
        size = rows * HIDDEN * (4 if job.dtype == "float32" else 2)
        error = BadTensorError("NaN", received=True) if bad else None
        self.service.on_result(
            StepResult(
                job.tag, job.key, job.position, rows, bytes(size), job.dtype, 0, 0, rows, error, HIDDEN
            )
        )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_hop_survives_whatever_it_is_told(data):
    node = Node(data)
    for _ in range(data.draw(st.integers(10, 50), label="length")):
        what = data.draw(st.integers(0, 9), label="what")
        if what == 0:
            message = data.draw(messages)
            sender = getattr(message, "origin", OTHER) if data.draw(st.booleans()) else data.draw(ids)
            node.take(sender, message)
        elif what < 3:
            node.open_well()
        elif what < 6:
            node.go_on()
        elif what < 9:
            node.compute()
        else:
            node.now += data.draw(st.sampled_from([0.1, 1.0, 13.0]))
            node.service.tick()
    while node.engine.jobs:
        node.compute()
    node.now += 20.0
    node.service.tick()
    assert node.service.session_count == 0
    assert node.engine.reserved == {}
