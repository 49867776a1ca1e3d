"""Sequences that are about to come back are waited for, others are not."""

from __future__ import annotations

from swarm.engine.cohorts import Cohorts


def stepped(cohorts: Cohorts, keys: list[str], now: float, seconds: float) -> None:
    cohorts.stepped(seconds)
    cohorts.answered(keys, now)


def test_a_sequence_that_is_back_soon_is_waited_for_until_it_is_back():
    cohorts = Cohorts()
    stepped(cohorts, ["a"], 1.0, 0.04)
    assert cohorts.patience(1.001) > 0
    cohorts.returned("a", 1.004)
    assert cohorts.patience(1.004) == 0


def test_a_sequence_that_stays_away_for_long_is_not_waited_for():
    cohorts = Cohorts()
    stepped(cohorts, ["a"], 1.0, 0.04)
    cohorts.returned("a", 1.2)
    stepped(cohorts, ["a"], 1.3, 0.04)
    assert cohorts.patience(1.301) == 0


def test_the_steps_of_others_do_not_count_as_absence():
    cohorts = Cohorts()
    stepped(cohorts, ["a"], 1.0, 0.04)
    stepped(cohorts, ["b"], 1.04, 0.04)
    cohorts.returned("a", 1.046)
    cohorts.ended("b")
    stepped(cohorts, ["a"], 1.1, 0.04)
    assert cohorts.patience(1.101) > 0


def test_a_sequence_that_does_not_come_back_is_given_up():
    cohorts = Cohorts()
    stepped(cohorts, ["a"], 1.0, 0.04)
    assert cohorts.patience(1.5) == 0


def test_an_ended_sequence_is_not_waited_for():
    cohorts = Cohorts()
    stepped(cohorts, ["a"], 1.0, 0.04)
    cohorts.ended("a")
    assert cohorts.patience(1.001) == 0


def test_nobody_waits_longer_than_half_a_step_for_what_is_usual():
    cohorts = Cohorts()
    stepped(cohorts, ["a"], 1.0, 0.04)
    cohorts.returned("a", 1.015)
    stepped(cohorts, ["a"], 1.1, 0.02)
    assert cohorts.patience(1.101) == 0
