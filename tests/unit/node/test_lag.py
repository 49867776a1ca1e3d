"""The event loop's lag as percentiles."""

from __future__ import annotations

from swarm.node.lag import SAMPLES, LoopLag


def test_percentiles_are_of_the_last_samples():
    lag = LoopLag()
    for _ in range(SAMPLES):
        lag.observe(9.0)
    for index in range(SAMPLES):
        lag.observe(index / 1e6)
    assert lag.percentiles() == {"p50": 0.6, "p99": 1.19, "max": 1.2}


def test_without_samples_and_with_early_timers_the_lag_is_zero():
    lag = LoopLag()
    assert lag.percentiles() == {"p50": 0.0, "p99": 0.0, "max": 0.0}
    lag.observe(-0.5)
    assert lag.percentiles()["max"] == 0.0
