"""Which hops count as slow."""

from __future__ import annotations

import pytest

from swarm.protocol.messages import HopTime
from swarm.sessions.slow import SLOW_STEPS, SlowHops


def times(*milliseconds: float, rows: int = 1) -> tuple[HopTime, ...]:
    return tuple(HopTime(0, int(taken * 1000), rows) for taken in milliseconds)


def feed(slow: SlowHops, steps: int, *milliseconds: float, rows: int = 1) -> list[int | None]:
    return [slow.observe(times(*milliseconds, rows=rows)) for _ in range(steps)]


def test_a_hop_that_becomes_slow_is_found_after_five_steps_in_a_row():
    slow = SlowHops()
    assert feed(slow, 10, 10, 10, 10) == [None] * 10
    assert feed(slow, SLOW_STEPS, 10, 100, 10) == [None] * (SLOW_STEPS - 1) + [1]


def test_single_slow_steps_are_nothing():
    slow = SlowHops()
    feed(slow, 10, 10, 10)
    for _ in range(10):
        assert feed(slow, SLOW_STEPS - 1, 10, 100) + feed(slow, 1, 10, 10) == [None] * SLOW_STEPS


def test_a_hop_that_was_slow_from_the_first_step_is_measured_by_what_was_said():
    slow = SlowHops((0.01, 0.01))
    assert feed(slow, SLOW_STEPS, 10, 100)[-1] == 1


def test_a_hop_without_rivals_that_was_always_slow_is_not_slow():
    slow = SlowHops((0.01, float("inf")))
    assert feed(slow, 30, 10, 100) == [None] * 30


def test_hops_that_are_all_slow_at_once_share_a_machine():
    slow = SlowHops((0.01, 0.01))
    feed(slow, 10, 10, 10)
    assert feed(slow, 20, 100, 90) == [None] * 20


@pytest.mark.parametrize("rows", [16, 64])
def test_many_rows_in_a_pass_are_load_and_no_slowness(rows):
    slow = SlowHops()
    feed(slow, 10, 10, 10)
    assert feed(slow, 20, 10, 10 * (1 + rows / 16), rows=rows) == [None] * 20


def test_what_is_lost_must_be_worth_a_move():
    slow = SlowHops()
    feed(slow, 10, 1, 1)
    assert feed(slow, 20, 1, 10) == [None] * 20


def test_another_number_of_hops_begins_anew():
    slow = SlowHops()
    feed(slow, 10, 10, 10)
    assert feed(slow, 20, 100, 100, 100) == [None] * 20
