"""What a span says of its speed, corrected by what passes really take."""

from __future__ import annotations

import pytest

from swarm.routing.predict import StageCost
from swarm.routing.speed import WINDOW, WINDOW_OF_MANY, SpanSpeed
from swarm.types import LayerSpan, NodeId


def test_a_span_that_was_measured_while_its_machine_was_busy_says_how_fast_it_proves_to_be():
    speed = SpanSpeed(0.003, 0.0002)
    for _ in range(WINDOW):
        speed.note(layers=10, rows=1, seconds=0.01)
    assert speed.seconds_per_layer == pytest.approx(0.001)
    assert speed.seconds_per_row == 0.0002


def test_passes_of_many_rows_say_what_a_row_takes():
    speed = SpanSpeed(0.001, 0.0002)
    for _ in range(WINDOW_OF_MANY):
        speed.note(layers=10, rows=101, seconds=10 * (0.001 + 100 * 0.00005))
    assert speed.seconds_per_row == pytest.approx(0.00005)
    assert speed.seconds_per_layer == 0.001


def test_slow_passes_single_quick_ones_and_small_gains_change_nothing():
    speed = SpanSpeed(0.001, 0.0002)
    for seconds in [0.05] * WINDOW + [0.001] + [0.01] * (WINDOW - 1) + [0.0095] * WINDOW:
        speed.note(layers=10, rows=1, seconds=seconds)
    assert speed.seconds_per_layer == 0.001


def test_what_is_measured_again_counts_at_once_if_it_is_faster():
    speed = SpanSpeed(0.003, 0.0)
    speed.measured(0.001, 0.0002)
    assert (speed.seconds_per_layer, speed.seconds_per_row) == (0.001, 0.0002)
    speed.measured(0.005, 0.0009)
    assert (speed.seconds_per_layer, speed.seconds_per_row) == (0.001, 0.0002)


def test_a_prompt_is_predicted_by_what_its_rows_take_where_that_is_known():
    known = StageCost(NodeId("n" * 32), LayerSpan(0, 4), 0.0, 0.004, 0.0, row_seconds=0.001)
    assert known.pass_seconds(1) == 0.004
    assert known.pass_seconds(101) == pytest.approx(0.104)
    unknown = StageCost(NodeId("n" * 32), LayerSpan(0, 4), 0.0, 0.004, 0.0)
    assert unknown.pass_seconds(17) == pytest.approx(0.008)
