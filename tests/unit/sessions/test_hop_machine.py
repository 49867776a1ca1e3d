"""A hop's rules as a state machine: whatever comes in whatever order, only who may changes what they may."""

from __future__ import annotations

from copy import deepcopy

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from swarm.errors import ProtocolError
from swarm.protocol.messages import CloseSession, Hop, Need, OpenSession, Refused, Renew, Replay, Step
from swarm.sessions.hop import HopSessions, ticket_of
from swarm.sessions.hop_session import Admit, Ask, Drop, HopKey, Resend, Run
from swarm.types import BootId, LayerSpan, ModelId, NodeId, SessionId

ME, BEFORE, AFTER, STRANGER = (NodeId(name) for name in ("me", "before", "after", "stranger"))
ORIGINS = (NodeId("origin"), NodeId("other"))
BOOT = BootId(b"mybootid")
MODEL = ModelId("org/model", "0" * 64)
ROW = 4
LEASE = 12.0
LOG_BYTES = 4000

sessions_ids = st.sampled_from([SessionId(bytes([number]) * 16) for number in range(2)])
origins = st.sampled_from(ORIGINS)
places = st.sampled_from([1, 2])
"""Where this hop stands in the path: alone behind ``BEFORE``, or behind one more."""


def path(place: int) -> tuple[Hop, ...]:
    ahead = [Hop(NodeId(f"far{at}"), BOOT, LayerSpan(at, at + 1)) for at in range(place - 1)]
    return (
        *ahead,
        Hop(BEFORE, BOOT, LayerSpan(1, 2)),
        Hop(ME, BOOT, LayerSpan(2, 4)),
        Hop(AFTER, BOOT, LayerSpan(4, 6)),
    )


class Known:
    """What the test holds of one session: the tokens whose KV the hop has or will have, and what it computed."""

    def __init__(self, epoch: int, place: int, lease_until: float) -> None:
        self.epoch = epoch
        self.place = place
        self.lease_until = lease_until
        self.length = 0
        self.computed: list[int] = []
        """The version of each token's row, as far as it is computed."""
        self.pending: list[Step] = []
        self.next_step = 0
        self.stepped = False

    @property
    def settled(self) -> int:
        return min([len(self.computed), *(step.position for step in self.pending)])


class HopRules(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.sessions = HopSessions(
            node=ME, boot=BOOT, lease_seconds=LEASE, max_per_origin=8, log_bytes=LOG_BYTES
        )
        self.known: dict[tuple[NodeId, SessionId], Known] = {}
        self.now = 0.0
        self.version = 0

    # --- helpers ---

    def key(self, origin: NodeId, session: SessionId) -> HopKey:
        return HopKey(origin, session, 2)

    def picture(self) -> object:
        """All there is to see of every session."""
        return deepcopy(
            [
                (s.key, s.place, s.epoch, s.length, s.settled, s.next_step, s.lease_until, sorted(s.pending))
                for s in self.sessions
            ]
        )

    def unmoved(self, action) -> None:
        """Do what must change nothing; it may say that its sender is no honest node."""
        before = self.picture()
        try:
            answer = action()
        except ProtocolError:
            answer = None
        assert isinstance(answer, Drop | Refused | Ask | Resend | list | None)
        assert answer != [] or before == self.picture()
        assert before == self.picture()

    def some(self, data, *, pending: bool = False) -> tuple[NodeId, SessionId]:
        fitting = [name for name, known in self.known.items() if known.pending or not pending]
        return data.draw(st.sampled_from(sorted(fitting)))

    def step(self, name, number, position, count, *, epoch=None, fill=False, place=None) -> Step:
        known = self.known[name]
        return Step(
            *name,
            known.epoch if epoch is None else epoch,
            number,
            position,
            count,
            2,
            "bfloat16",
            "last",
            (),
            known.place + 1 if fill else 0,
            known.place if place is None else place,
        )

    # --- the origin ---

    @rule(origin=origins, session=sessions_ids, place=places, keep=st.integers(0, 40), leap=st.integers(1, 3))
    def opens(self, origin, session, place, keep, leap):
        known = self.known.get((origin, session))
        epoch = (known.epoch if known else 0) + leap
        message = OpenSession(origin, session, epoch, MODEL, "bfloat16", path(place), place, 64, keep, 1000)
        decision = self.sessions.open(origin, message)
        assert isinstance(decision, Admit)
        expected = min(keep, known.settled) if known else 0
        assert (decision.known, decision.keep) == (known is not None, expected)
        opened = self.sessions.admitted(decision, message, self.now)
        assert (opened.kv_length, opened.epoch, opened.index) == (expected, epoch, place)
        assert 0 <= opened.log_from <= opened.kv_length
        fresh = Known(epoch, place, self.now + LEASE)
        fresh.length = expected
        fresh.computed = known.computed[:expected] if known else []
        self.known[origin, session] = fresh

    @precondition(lambda self: self.known)
    @rule(data=st.data(), sender=st.sampled_from([BEFORE, AFTER, STRANGER]), back=st.integers(0, 3))
    def opens_without_right(self, data, sender, back):
        name = self.some(data)
        known = self.known[name]
        message = OpenSession(
            *name, known.epoch - back, MODEL, "bfloat16", path(known.place), known.place, 64, 0, 1000
        )
        self.unmoved(lambda: self.sessions.open(sender, message))
        self.unmoved(lambda: self.sessions.open(name[0], message))
        other_start = (*path(1)[:1], Hop(ME, BootId(b"oldstart"), LayerSpan(2, 4)), *path(1)[2:])
        stale = OpenSession(*name, known.epoch + 9, MODEL, "bfloat16", other_start, 1, 64, 0, 1000)
        self.unmoved(lambda: self.sessions.open(name[0], stale))

    @precondition(lambda self: self.known)
    @rule(data=st.data(), passed=st.floats(0.0, 8.0))
    def renews(self, data, passed):
        name = self.some(data)
        self.time_passes(passed)
        if name in self.known:
            self.sessions.renew(name[0], Renew((name[1],)), self.now)
            self.known[name].lease_until = self.now + LEASE

    @precondition(lambda self: self.known)
    @rule(data=st.data(), sender=st.sampled_from([BEFORE, AFTER, STRANGER]))
    def renews_and_closes_of_others_do_nothing(self, data, sender):
        name = self.some(data)
        self.unmoved(lambda: self.sessions.renew(sender, Renew((name[1],)), self.now))
        self.unmoved(lambda: self.sessions.close(sender, CloseSession(*name, 1 << 30)))
        known = self.known[name]
        self.unmoved(lambda: self.sessions.close(name[0], CloseSession(*name, known.epoch - 1)))
        self.unmoved(
            lambda: self.sessions.close(name[0], CloseSession(*name, known.epoch, (), known.place + 1))
        )

    @precondition(lambda self: self.known)
    @rule(data=st.data(), everywhere=st.booleans())
    def closes(self, data, everywhere):
        name = self.some(data)
        known = self.known.pop(name)
        message = CloseSession(*name, known.epoch, (), -1 if everywhere else known.place)
        (ended,) = self.sessions.close(name[0], message)
        assert ended.key == self.key(*name)

    @rule(seconds=st.floats(0.0, 6.0))
    def time_passes(self, seconds):
        self.now += seconds
        gone = {name for name, known in self.known.items() if known.lease_until <= self.now}
        assert set(self.sessions.expire(self.now)) == {self.key(*name) for name in gone}
        for name in gone:
            del self.known[name]

    @rule(origin=origins)
    def an_origin_dies(self, origin):
        gone = {name for name in self.known if name[0] == origin}
        assert set(self.sessions.origin_gone(origin)) == {self.key(*name) for name in gone}
        for name in gone:
            del self.known[name]

    # --- the hop before ---

    @precondition(lambda self: self.known)
    @rule(data=st.data(), count=st.integers(1, 6), back=st.integers(0, 8), fill=st.booleans())
    def the_next_step_comes(self, data, count, back, fill):
        name = self.some(data)
        known = self.known[name]
        position = max(0, known.length - back)
        number = self.version if fill else known.next_step
        message = self.step(name, number, position, count, fill=fill)
        if fill and known.stepped:
            self.unmoved(lambda: self.sessions.step(BEFORE, message, self.now))
            return
        decision = self.sessions.step(BEFORE, message, self.now)
        assert isinstance(decision, Run)
        self.version += 1
        if not fill:
            known.next_step += 1
            known.stepped = True
        known.length = position + count
        known.pending.append(message)

    @precondition(lambda self: self.known)
    @rule(
        data=st.data(),
        what=st.sampled_from(
            ["seen", "gap", "beyond", "old epoch", "new epoch", "sender", "fill gap", "fill sender", "place"]
        ),
        by=st.integers(1, 3),
    )
    def a_step_that_may_not_be(self, data, what, by):
        name = self.some(data)
        known = self.known[name]
        number, position, sender = known.next_step, known.length, BEFORE
        epoch, place, fill = known.epoch, known.place, what.startswith("fill")
        if what == "seen":
            number -= by
        elif what == "gap":
            number += by
        elif what in ("beyond", "fill gap"):
            position += by
        elif what == "old epoch":
            epoch -= by
        elif what == "new epoch":
            epoch += by
        elif what in ("sender", "fill sender"):
            sender = data.draw(st.sampled_from([AFTER, STRANGER, ME, *ORIGINS]))
        elif what == "place":
            place += 1
        message = self.step(name, number, position, 1, epoch=epoch, fill=fill, place=place)
        self.unmoved(lambda: self.sessions.step(sender, message, self.now))

    # --- the compute thread ---

    @precondition(lambda self: any(known.pending for known in self.known.values()))
    @rule(data=st.data())
    def a_step_is_computed(self, data):
        name = self.some(data, pending=True)
        known = self.known[name]
        message = known.pending.pop(0)
        found = self.sessions.finished(self.key(*name), message.epoch, ticket_of(message))
        assert found is not None
        assert found[1] == message
        self.version += 1
        del known.computed[message.position :]
        known.computed += [self.version % 256] * message.count
        self.sessions.computed(found[0], message, bytes([self.version % 256]) * ROW * message.count)
        assert self.sessions.finished(self.key(*name), message.epoch, ticket_of(message)) is None

    @precondition(lambda self: self.known)
    @rule(data=st.data(), back=st.integers(1, 3))
    def a_result_of_an_old_epoch_comes(self, data, back):
        name = self.some(data)
        epoch = self.known[name].epoch - back
        before = self.picture()
        assert self.sessions.finished(self.key(*name), epoch, 0) is None
        assert before == self.picture()

    # --- replays ---

    @precondition(lambda self: self.known)
    @rule(data=st.data(), position=st.integers(0, 30), count=st.integers(1, 12))
    def rows_are_replayed(self, data, position, count):
        name = self.some(data)
        known = self.known[name]
        message = Replay(*name, known.epoch, known.place, 3, position, count, 4, STRANGER, 99, 3)
        before = self.picture()
        decision = self.sessions.replay(name[0], message)
        assert before == self.picture()
        if isinstance(decision, Resend):
            assert decision.receiver == STRANGER
            rows = known.computed[position : position + count]
            assert decision.payload == b"".join(bytes([version]) * ROW for version in rows)
            assert len(rows) == count
        else:
            assert isinstance(decision, Refused)
            assert decision.code == "log_gap"

    @precondition(lambda self: self.known)
    @rule(data=st.data(), sender=st.sampled_from([BEFORE, AFTER, STRANGER]), off=st.integers(-2, 2))
    def replays_and_needs_of_others_do_nothing(self, data, sender, off):
        name = self.some(data)
        known = self.known[name]
        message = Replay(*name, known.epoch, known.place, 0, 0, 1, 4, STRANGER, 99, 3)
        before = self.picture()
        try:
            self.sessions.replay(sender, message)
        except ProtocolError:
            assert before == self.picture()
        else:
            raise AssertionError("a foreign Replay was taken")
        if off:
            stale = Replay(*name, known.epoch + off, known.place, 0, 0, 1, 4, STRANGER, 99, 3)
            assert isinstance(self.sessions.replay(name[0], stale), Drop)
        self.unmoved(lambda: self.sessions.need(sender, Need(*name, known.epoch, 0, 0)))

    # --- what always holds ---

    @invariant()
    def the_hop_holds_what_it_was_told(self):
        assert {session.key for session in self.sessions} == {self.key(*name) for name in self.known}
        for name, known in self.known.items():
            session = self.sessions.get(self.key(*name))
            assert session is not None
            assert (session.epoch, session.place, session.length) == (known.epoch, known.place, known.length)
            assert session.next_step == known.next_step
            assert len(session.pending) == len(known.pending)
            assert session.settled == known.settled

    @invariant()
    def the_accounts_of_the_logs_are_right(self):
        assert self.sessions.log_bytes == sum(session.log.bytes for session in self.sessions)
        assert self.sessions.log_bytes <= LOG_BYTES


TestHopRules = HopRules.TestCase
TestHopRules.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
