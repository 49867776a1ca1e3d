"""Sequences that are about to come back are waited for, others are not."""

from __future__ import annotations

from swarm.engine.cohorts import Cohorts
from swarm.engine.jobs import StepJob


def job(key: str, hops: int = 1) -> StepJob:
    return StepJob(key, 0, 1, b"", "float32", "last", hops=hops)


def stepped(cohorts: Cohorts, keys: list[str], now: float, seconds: float, hops: int = 1) -> None:
    cohorts.stepped(seconds)
    cohorts.answered([job(key, hops) for key in keys], now)


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


def test_over_several_hops_a_step_takes_its_share_and_nobody_is_waited_for():
    cohorts = Cohorts()
    waiting = [job(str(number), hops=2) for number in range(8)]
    assert cohorts.share(waiting) == 4
    stepped(cohorts, [str(number) for number in range(4)], 1.0, 0.04, hops=2)
    assert cohorts.share(waiting[4:]) == 4
    assert cohorts.patience(1.001) == 0


def test_on_a_lone_hop_a_step_takes_all():
    assert Cohorts().share([job(str(number)) for number in range(8)]) == 8


def test_a_sequence_that_ended_elsewhere_has_no_share():
    cohorts = Cohorts()
    stepped(cohorts, ["a", "b"], 1.0, 0.04, hops=2)
    cohorts.ended("a")
    cohorts.returned("b", 1.1)
    assert cohorts.share([job("b", 2), job("c", 2)]) == 1
