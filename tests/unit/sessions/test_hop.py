"""Who may do what with a hop's sessions."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarm.errors import ProtocolError
from swarm.protocol.limits import MAX_PENDING_STEPS
from swarm.protocol.messages import (
    CloseSession,
    Hop,
    HopTime,
    Need,
    OpenSession,
    Refused,
    Renew,
    Replay,
    Step,
)
from swarm.sessions.hop import HopSessions, ticket_of
from swarm.sessions.hop_session import Admit, Ask, Drop, HopKey, Resend, Run
from swarm.types import BootId, LayerSpan, ModelId, NodeId, SessionId

ME, BEFORE, AFTER, ORIGIN, STRANGER = (
    NodeId(name) for name in ("me", "before", "after", "origin", "stranger")
)
BOOT = BootId(b"mybootid")
SESSION = SessionId(b"s" * 16)
MODEL = ModelId("org/model", "0" * 64)
HOPS = (
    Hop(BEFORE, BootId(b"bbootbbb"), LayerSpan(0, 2)),
    Hop(ME, BOOT, LayerSpan(2, 4)),
    Hop(AFTER, BootId(b"abootaaa"), LayerSpan(4, 6)),
)
KEY = HopKey(ORIGIN, SESSION, 2)


def opening(
    *, epoch: int = 1, keep: int = 0, hops: tuple[Hop, ...] = HOPS, index: int = 1, kv: int = 64
) -> OpenSession:
    return OpenSession(ORIGIN, SESSION, epoch, MODEL, "bfloat16", hops, index, kv, keep, 1000)


def step(number: int, position: int, count: int = 1, *, epoch: int = 1, dtype: str = "bfloat16") -> Step:
    return Step(ORIGIN, SESSION, epoch, number, position, count, 8, dtype, "last", index=1)  # type: ignore[arg-type]


def fill(number: int, position: int, count: int = 1, *, until: int = 2, epoch: int = 1) -> Step:
    return Step(
        ORIGIN, SESSION, epoch, number, position, count, 8, "bfloat16", "none", fill_until=until, index=1
    )


def replay(position: int, count: int, *, epoch: int = 1, index: int = 1, to_index: int = 2) -> Replay:
    return Replay(ORIGIN, SESSION, epoch, index, 4, position, count, to_index + 1, AFTER, 9, to_index)


def compute(sessions: HopSessions, message: Step) -> None:
    """Run a step to its end, with rows that say their position."""
    run = sessions.step(BEFORE, message, 0.0)
    assert isinstance(run, Run)
    found = sessions.finished(KEY, message.epoch, ticket_of(message))
    assert found is not None
    rows = b"".join(bytes([position]) * 16 for position in range(message.position, run.session.length))
    sessions.computed(run.session, message, rows)


@pytest.fixture
def sessions() -> HopSessions:
    return HopSessions(node=ME, boot=BOOT, lease_seconds=12.0, max_per_origin=2)


def admitted(sessions: HopSessions, message: OpenSession, now: float = 0.0) -> None:
    decision = sessions.open(message.origin, message)
    assert isinstance(decision, Admit)
    sessions.admitted(decision, message, now)


def test_only_the_origin_opens_its_sessions(sessions):
    with pytest.raises(ProtocolError):
        sessions.open(STRANGER, opening())


def test_an_open_session_for_another_start_of_this_node_is_refused(sessions):
    stale = (HOPS[0], Hop(ME, BootId(b"oldbooot"), LayerSpan(2, 4)), HOPS[2])
    decision = sessions.open(ORIGIN, opening(hops=stale))
    assert isinstance(decision, Refused)
    assert decision.code == "not_yours"


@pytest.mark.parametrize("sender", [ORIGIN, AFTER, STRANGER])
def test_a_step_comes_from_the_hop_before_or_breaks_the_link(sessions, sender):
    admitted(sessions, opening())
    with pytest.raises(ProtocolError):
        sessions.step(sender, step(0, 0), 0.0)


def test_steps_run_in_order_and_advance_the_kv_length(sessions):
    admitted(sessions, opening())
    assert isinstance(sessions.step(BEFORE, step(0, 0, 5), 0.0), Run)
    assert isinstance(sessions.step(BEFORE, step(1, 5), 0.0), Run)
    session = sessions.get(KEY)
    assert session is not None
    assert session.length == 6


def test_a_step_below_the_kv_length_truncates_first(sessions):
    admitted(sessions, opening())
    sessions.step(BEFORE, step(0, 0, 5), 0.0)
    assert isinstance(sessions.step(BEFORE, step(1, 3, 1), 0.0), Run)
    session = sessions.get(KEY)
    assert session is not None
    assert session.length == 4


def test_a_step_beyond_the_kv_length_breaks_the_link(sessions):
    admitted(sessions, opening())
    with pytest.raises(ProtocolError):
        sessions.step(BEFORE, step(0, 3), 0.0)


def test_a_flood_of_steps_breaks_the_link(sessions):
    admitted(sessions, opening())
    for number in range(MAX_PENDING_STEPS):
        assert isinstance(sessions.step(BEFORE, step(number, 0), 0.0), Run)
    with pytest.raises(ProtocolError, match="at once"):
        sessions.step(BEFORE, step(MAX_PENDING_STEPS, 0), 0.0)


def test_a_missing_step_is_asked_for(sessions):
    admitted(sessions, opening())
    decision = sessions.step(BEFORE, step(2, 0), 0.0)
    assert isinstance(decision, Ask)
    assert (decision.receiver, decision.message.step) == (BEFORE, 0)


def test_a_repeated_step_is_answered_from_what_is_held_and_never_runs_twice(sessions):
    admitted(sessions, opening())
    run = sessions.step(BEFORE, step(0, 0), 0.0)
    assert isinstance(run, Run)
    assert isinstance(sessions.step(BEFORE, step(0, 0), 0.0), Drop)
    run.session.held = (0, AFTER, run.step, b"payload")
    again = sessions.step(BEFORE, step(0, 0), 0.0)
    assert isinstance(again, Resend)
    assert (again.receiver, again.payload) == (AFTER, b"payload")


def test_frames_of_another_epoch_do_nothing(sessions):
    admitted(sessions, opening(epoch=3))
    for epoch in (2, 4):
        assert isinstance(sessions.step(STRANGER, step(0, 0, epoch=epoch), 0.0), Drop)
    assert isinstance(sessions.open(ORIGIN, opening(epoch=3)), Drop)
    assert sessions.close(ORIGIN, CloseSession(ORIGIN, SESSION, 2)) == []
    assert len(sessions) == 1


def test_a_higher_epoch_truncates_and_forgets_the_results_of_the_old_one(sessions):
    admitted(sessions, opening())
    sessions.step(BEFORE, step(0, 0, 5), 0.0)
    sessions.finished(KEY, 1, 0)
    sessions.step(BEFORE, step(1, 5, 2), 0.0)
    decision = sessions.open(ORIGIN, opening(epoch=2, keep=6))
    assert isinstance(decision, Admit)
    assert (decision.known, decision.keep) == (True, 5), "what is still being computed is not kept"
    assert sessions.admitted(decision, opening(epoch=2, keep=6), 0.0).kv_length == 5
    assert sessions.finished(KEY, 1, 1) is None


def test_a_result_belongs_to_the_step_that_asked_for_it(sessions):
    admitted(sessions, opening())
    sessions.step(BEFORE, step(0, 0), 0.0)
    found = sessions.finished(KEY, 1, 0)
    assert found is not None
    assert found[1].step == 0
    assert sessions.finished(KEY, 1, 0) is None


def test_only_the_origin_closes_and_renews(sessions):
    admitted(sessions, opening())
    with pytest.raises(ProtocolError):
        sessions.close(STRANGER, CloseSession(ORIGIN, SESSION, 1))
    sessions.renew(STRANGER, Renew((SESSION,)), 10.0)
    assert sessions.expire(12.5) == [KEY]


def test_a_renewed_lease_lasts_a_whole_lease_from_then(sessions):
    admitted(sessions, opening())
    sessions.renew(ORIGIN, Renew((SESSION,)), 10.0)
    assert sessions.expire(21.9) == []
    assert sessions.expire(22.0) == [KEY]


def test_one_origin_holds_no_more_sessions_than_its_share(sessions):
    for number in range(2):
        other = OpenSession(
            ORIGIN, SessionId(bytes([number]) * 16), 1, MODEL, "bfloat16", HOPS, 1, 8, 0, 1000
        )
        admitted(sessions, other)
    decision = sessions.open(ORIGIN, opening())
    assert isinstance(decision, Refused)
    assert decision.code == "full"


def test_a_node_may_stand_twice_in_a_path(sessions):
    hops = (Hop(ME, BOOT, LayerSpan(0, 1)), HOPS[0], Hop(ME, BOOT, LayerSpan(5, 6)))
    for index in (0, 2):
        admitted(sessions, opening(hops=hops, index=index))
    assert len(sessions) == 2
    assert len(sessions.close(ORIGIN, CloseSession(ORIGIN, SESSION, 1))) == 2


def test_a_need_that_cannot_be_met_tells_the_origin_of_a_log_gap(sessions):
    admitted(sessions, opening())
    decision = sessions.need(AFTER, Need(ORIGIN, SESSION, 1, 0, 0))
    assert isinstance(decision, Refused)
    assert decision.code == "log_gap"
    with pytest.raises(ProtocolError):
        sessions.need(STRANGER, Need(ORIGIN, SESSION, 1, 0, 0))


def test_a_need_that_comes_late_is_no_fault_of_its_sender(sessions):
    late = Need(ORIGIN, SESSION, 1, 0, 0)
    assert sessions.need(AFTER, late) == Drop("no_session")
    other = (*HOPS[:2], Hop(STRANGER, BootId(b"other123"), LayerSpan(4, 6)))
    admitted(sessions, opening(epoch=2, hops=other))
    assert sessions.need(AFTER, late) == Drop("old_epoch")


def test_a_step_says_no_more_times_than_it_passed_hops_or_breaks_the_link(sessions):
    """Every hop adds its own: with as many as fit into a header none could hand the step on."""
    admitted(sessions, opening())
    told = HopTime(1, 1, 1)
    with pytest.raises(ProtocolError, match="times"):
        sessions.step(BEFORE, replace(step(0, 0), times=(told, told)), 0.0)
    assert isinstance(sessions.step(BEFORE, replace(step(0, 0), times=(told,)), 0.0), Run)


def test_the_sessions_of_an_origin_that_is_gone_end_at_once(sessions):
    admitted(sessions, opening())
    assert sessions.origin_gone(STRANGER) == []
    assert sessions.origin_gone(ORIGIN) == [KEY]


@pytest.mark.parametrize(
    "message",
    [opening(index=3), opening(index=-1), opening(keep=-1), opening(kv=0), opening(kv=1 << 40)],
)
def test_an_open_session_with_sizes_out_of_range_breaks_the_link(sessions, message):
    with pytest.raises(ProtocolError):
        sessions.open(ORIGIN, message)


def test_a_step_of_another_dtype_breaks_the_link(sessions):
    admitted(sessions, opening())
    with pytest.raises(ProtocolError):
        sessions.step(BEFORE, step(0, 0, dtype="float32"), 0.0)


def test_what_was_sent_on_is_replayed_to_whom_the_origin_names(sessions):
    admitted(sessions, opening())
    compute(sessions, step(0, 0, 5))
    compute(sessions, step(1, 5))
    decision = sessions.replay(ORIGIN, replay(3, 3))
    assert isinstance(decision, Resend)
    assert (decision.receiver, decision.again) == (AFTER, False)
    sent = decision.message
    assert isinstance(sent, Step)
    assert (sent.epoch, sent.step, sent.position, sent.count, sent.hidden) == (9, 4, 3, 3, 8)
    assert (sent.fill_until, sent.index) == (3, 2)
    assert decision.payload == b"\x03" * 16 + b"\x04" * 16 + b"\x05" * 16


@pytest.mark.parametrize("sender", [BEFORE, AFTER, STRANGER])
def test_only_the_origin_has_something_replayed(sessions, sender):
    admitted(sessions, opening())
    compute(sessions, step(0, 0, 5))
    with pytest.raises(ProtocolError):
        sessions.replay(sender, replay(0, 5))


@pytest.mark.parametrize("wish", [replay(0, 6), replay(5, 1)])
def test_rows_that_are_not_held_are_a_log_gap_and_the_session_stays(sessions, wish):
    admitted(sessions, opening())
    compute(sessions, step(0, 0, 5))
    decision = sessions.replay(ORIGIN, wish)
    assert isinstance(decision, Refused)
    assert (decision.code, decision.index) == ("log_gap", 1)
    assert sessions.get(KEY) is not None


def test_a_replay_of_another_epoch_does_nothing(sessions):
    admitted(sessions, opening(epoch=3))
    assert isinstance(sessions.replay(ORIGIN, replay(0, 1, epoch=2)), Drop)
    assert isinstance(sessions.replay(ORIGIN, replay(0, 1, epoch=3, index=0)), Drop)


@pytest.mark.parametrize("wish", [replay(0, 0), replay(-1, 1), replay(0, 1 << 20), replay(0, 1, to_index=-1)])
def test_a_replay_out_of_range_breaks_the_link(sessions, wish):
    admitted(sessions, opening())
    with pytest.raises(ProtocolError):
        sessions.replay(ORIGIN, wish)


def test_steps_that_fill_are_counted_apart_and_come_first(sessions):
    admitted(sessions, opening())
    compute(sessions, fill(0, 0, 4))
    compute(sessions, fill(3, 4, 4))
    compute(sessions, step(0, 8))
    late = sessions.step(BEFORE, fill(4, 8), 0.0)
    assert isinstance(late, Drop)
    assert isinstance(sessions.replay(ORIGIN, replay(0, 9)), Resend)


def test_a_fill_after_a_gap_is_dropped_and_one_from_another_sender_breaks_the_link(sessions):
    admitted(sessions, opening())
    assert isinstance(sessions.step(BEFORE, fill(0, 3), 0.0), Drop)
    with pytest.raises(ProtocolError):
        sessions.step(AFTER, fill(0, 0), 0.0)
    for until in (1, 4):
        with pytest.raises(ProtocolError):
            sessions.step(BEFORE, fill(0, 0, until=until), 0.0)


def test_a_session_keeps_its_kv_and_log_when_its_place_in_the_path_changes(sessions):
    admitted(sessions, opening())
    compute(sessions, step(0, 0, 5))
    longer = (HOPS[0], Hop(STRANGER, BootId(b"sbootsss"), LayerSpan(1, 2)), *HOPS[1:])
    moved = opening(epoch=2, keep=5, hops=longer, index=2)
    decision = sessions.open(ORIGIN, moved)
    assert isinstance(decision, Admit)
    opened = sessions.admitted(decision, moved, 0.0)
    assert (opened.kv_length, opened.log_from, opened.index) == (5, 0, 2)
    assert isinstance(sessions.replay(ORIGIN, replay(0, 5, epoch=2, index=2, to_index=3)), Resend)
    assert isinstance(sessions.step(BEFORE, step(0, 5, epoch=2), 0.0), Drop), "nobody stands there any more"


def test_another_span_of_a_session_begins_with_nothing(sessions):
    admitted(sessions, opening())
    compute(sessions, step(0, 0, 5))
    wider = (HOPS[0], Hop(ME, BOOT, LayerSpan(2, 5)), Hop(AFTER, BootId(b"abootaaa"), LayerSpan(5, 6)))
    decision = sessions.open(ORIGIN, opening(epoch=2, keep=5, hops=wider))
    assert decision == Admit(KEY, 0, False)
    sessions.admitted(decision, opening(epoch=2, keep=5, hops=wider), 0.0)
    assert sessions.log_bytes == 0


def test_the_longest_log_gives_way_and_the_accounts_are_right():
    sessions = HopSessions(node=ME, boot=BOOT, lease_seconds=12.0, max_per_origin=8, log_bytes=2000)
    other = OpenSession(ORIGIN, SessionId(b"o" * 16), 1, MODEL, "bfloat16", HOPS, 1, 64, 0, 1000)
    admitted(sessions, other)
    small = sessions.get(HopKey(ORIGIN, SessionId(b"o" * 16), 2))
    assert small is not None
    sessions.computed(small, step(0, 0), bytes(16))
    admitted(sessions, opening())
    for number in range(20):
        compute(sessions, step(number, number))
    assert sessions.logs_dropped
    long = sessions.get(KEY)
    assert long is not None
    assert small.log.rows(0, 1) is not None
    assert long.log.start > 0
    assert sessions.log_bytes == small.log.bytes + long.log.bytes
    sessions.close(ORIGIN, CloseSession(ORIGIN, SESSION, 1))
    assert sessions.log_bytes == small.log.bytes


def test_one_place_of_a_session_can_be_closed(sessions):
    hops = (Hop(ME, BOOT, LayerSpan(0, 1)), HOPS[0], Hop(ME, BOOT, LayerSpan(5, 6)))
    for index in (0, 2):
        admitted(sessions, opening(hops=hops, index=index))
    (ended,) = sessions.close(ORIGIN, CloseSession(ORIGIN, SESSION, 1, index=2))
    assert ended.place == 2
    assert len(sessions) == 1
