"""Faults at random, many at once: afterwards the living know each other and nobody else."""

from __future__ import annotations

import pytest

from tests.sim.faults import Course, run


@pytest.mark.parametrize("seed", [*range(8), 287, 669])
def test_after_any_mixture_of_faults_the_living_agree(seed: int):
    assert Course(seed).problems() == []


def test_a_member_that_lost_its_own_claims_in_a_restart_buries_whom_the_others_bury():
    assert run(51).problems == ()


def test_a_member_that_many_were_hidden_from_by_a_cut_holds_none_of_them_dead_for_long():
    assert run(419).problems == ()


def test_a_member_that_joined_when_the_signers_of_a_death_were_dead_themselves_looks_into_it():
    assert run(639).problems == ()


def test_a_course_replays_byte_for_byte():
    first, second = (Course(5, nodes=6, seconds=30.0).world.history for _ in range(2))
    assert "\n".join(first) == "\n".join(second)
