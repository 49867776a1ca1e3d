"""Whom a member that shares answers next, and how fast."""

from __future__ import annotations

from swarm.protocol.messages import WantWeights
from swarm.transfer.pace import BURST_SECONDS, Pace
from swarm.transfer.serving import OPEN_REQUESTS, Serving
from swarm.types import NodeId

A, B = NodeId("a" * 32), NodeId("b" * 32)


def want(index: int) -> WantWeights:
    return WantWeights("d" * 64, "chunk", index)


def test_members_take_turns_and_each_keeps_its_order() -> None:
    serving = Serving()
    for index in range(3):
        serving.ask(A, want(index))
    serving.ask(B, want(7))
    order = [serving.next(lambda _node: True) for _ in range(4)]
    assert order == [(A, want(0)), (B, want(7)), (A, want(1)), (A, want(2))]
    assert serving.idle


def test_who_asks_too_much_at_once_is_refused() -> None:
    serving = Serving()
    assert [serving.ask(A, want(index)) for index in range(OPEN_REQUESTS + 1)] == [True] * OPEN_REQUESTS + [
        False
    ]
    assert serving.ask(B, want(0))


def test_a_member_whose_link_is_full_holds_nobody_up() -> None:
    serving = Serving()
    serving.ask(A, want(0))
    serving.ask(B, want(1))
    assert serving.next(lambda node: node == B) == (B, want(1))
    assert serving.next(lambda node: node == B) is None
    assert not serving.idle


def test_a_member_that_left_is_forgotten() -> None:
    serving = Serving()
    serving.ask(A, want(0))
    serving.gone(A)
    assert serving.idle


def test_the_rate_is_kept_over_time() -> None:
    pace, now, sent = Pace(), 100.0, 0
    while now < 110.0:
        if pace.wait(now) == 0.0:
            pace.spend(1000, 10_000, now)
            sent += 1000
        else:
            now += pace.wait(now)
    assert 100_000 <= sent <= 100_000 + 10_000 * BURST_SECONDS + 1000


def test_no_rate_is_no_wait() -> None:
    pace = Pace()
    pace.spend(1 << 40, 0, 1.0)
    assert pace.wait(1.0) == 0.0
