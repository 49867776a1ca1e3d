"""One answer under faults: its text is the undisturbed one, or it ends with an error that says why."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.errors import DeadlineError, NoPathError, PeerError
from swarm.types import LayerSpan

THREE = {"a": LayerSpan(0, 2), "b": LayerSpan(2, 4), "c": LayerSpan(4, 6)}
TWICE = {**THREE, "a2": LayerSpan(0, 2), "b2": LayerSpan(2, 4), "c2": LayerSpan(4, 6)}
PROMPT = tuple(range(100, 111))


def test_an_undisturbed_answer_is_the_models_text(world, undisturbed):
    run = world(1, THREE)
    run.ask(PROMPT, 20)
    run.run()
    assert run.emitted == undisturbed(PROMPT, 20)
    assert run.finish == "length"
    assert run.violations == []


def test_drafts_change_the_number_of_steps_and_not_the_text(world, undisturbed):
    ids = (0, 1, 0, 0, 1, 1, 0, 1)
    run = world(4, THREE, vocabulary=2)
    core = run.ask(ids, 120)
    run.run()
    assert run.emitted == undisturbed(ids, 120, 2)
    assert core.drafter.accepted > 0
    assert core.drafter.proposed > core.drafter.accepted
    assert run.violations == []


def test_the_next_turn_computes_only_what_is_new(world, undisturbed):
    run = world(10, THREE)
    first = tuple(range(200, 280))
    run.ask(first, 20)
    run.run()
    run.settle()
    turn = (*first, *run.emitted, 1, 2, 3)
    run.emitted = []
    core = run.ask(turn, 20)
    run.run()
    assert run.emitted == undisturbed(turn, 20)
    assert core.cached_tokens == 96
    assert run.violations == []


def test_a_hop_that_forgot_makes_the_others_start_where_it_must(world, undisturbed):
    run = world(11, THREE)
    prompt = tuple(range(200, 280))
    run.ask(prompt, 5)
    run.run()
    run.settle()
    run.hops["b"].kept.clear()
    run.emitted = []
    core = run.ask((*prompt, 4), 20)
    run.run()
    assert run.emitted == undisturbed((*prompt, 4), 20)
    assert core.cached_tokens == 0
    assert run.violations == []


def test_the_end_of_an_answer_frees_every_hop(world):
    run = world(2, THREE)
    run.ask(PROMPT, 5)
    run.run()
    run.settle()
    assert run.sessions_open() == 0


def test_a_client_that_leaves_frees_every_hop(world):
    run = world(2, THREE)
    core = run.ask(PROMPT, 500)
    run.at(0.7, core.cancel)
    run.run()
    run.settle()
    assert run.emitted
    assert run.finish is None
    assert run.sessions_open() == 0


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(world, undisturbed):
    text = undisturbed(PROMPT, 10)
    run = world(3, THREE)
    run.ask(PROMPT, 10, stop_ids=[text[6]])
    run.run()
    assert run.emitted == text[: text.index(text[6])]
    assert run.finish == "stop"


@pytest.mark.parametrize("victim", ["a", "b", "c"])
@pytest.mark.parametrize("tenths", range(12))
def test_a_hop_killed_at_any_time_costs_no_token(world, undisturbed, victim, tenths):
    run = world(tenths, TWICE)
    run.ask(PROMPT, 24)
    run.at(tenths * 0.13, lambda: run.kill(victim))
    run.run()
    assert run.emitted == undisturbed(PROMPT, 24)
    assert run.finish == "length"
    assert run.error is None


def test_a_hop_that_falls_silent_is_left_at_the_steps_deadline(world, undisturbed):
    run = world(5, TWICE)
    run.ask(PROMPT, 24)
    run.at(0.4, lambda: [run.kill(name, notice=None) for name in ("a", "b", "c")])
    run.run()
    assert run.emitted == undisturbed(PROMPT, 24)
    assert run.core.recoveries >= 1


def test_without_a_holder_the_answer_waits_and_goes_on_when_one_is_back(world, undisturbed):
    run = world(6, THREE)
    run.ask(PROMPT, 24)
    run.at(0.5, lambda: run.kill("b"))
    run.at(20.0, lambda: run.start("b"))
    run.run()
    assert run.emitted == undisturbed(PROMPT, 24)


def test_without_a_holder_until_the_deadline_the_answer_ends_with_an_error(world, undisturbed):
    run = world(7, THREE)
    run.ask(PROMPT, 200, deadline=30.0)
    run.at(0.5, lambda: run.kill("b"))
    run.run()
    assert isinstance(run.error, DeadlineError)
    assert run.emitted == undisturbed(PROMPT, 200)[: len(run.emitted)]
    assert run.emitted


def test_an_answer_whose_client_saw_nothing_yet_is_held_for_a_while_only(world):
    run = world(7, THREE)
    run.ask(PROMPT, 200, hold=4.0)
    run.at(0.5, lambda: run.kill("b"))
    run.run()
    assert isinstance(run.error, NoPathError)
    assert run.error.missing[0].start == 2
    assert run.now < 5.5


def test_a_lost_span_that_is_back_in_time_costs_a_held_answer_nothing(world, undisturbed):
    run = world(7, THREE)
    run.ask(PROMPT, 200, hold=4.0)
    for time in (0.5, 5.0, 9.5):
        run.at(time, lambda: run.kill("b"))
        run.at(time + 3.0, lambda: run.start("b"))
    run.run()
    assert run.emitted == undisturbed(PROMPT, 200)


def test_a_request_that_finds_no_path_fails_before_it_is_ready(world):
    run = world(8, {name: span for name, span in THREE.items() if name != "c"})
    run.ask(PROMPT, 5)
    run.run()
    assert isinstance(run.error, NoPathError)
    assert run.error.missing == (LayerSpan(4, 6),)
    assert not run.ready


def test_a_path_that_fails_again_and_again_ends_the_request_and_not_the_swarm(world):
    run = world(9, TWICE)
    run.ask(PROMPT, 50)

    def poison(name: str) -> None:
        run.kill(name)
        run.at(run.now + 0.05, lambda: run.start(name))

    for index in range(200):
        run.at(0.3 + index * 0.011, lambda i=index: poison(("b", "b2")[i % 2]))
    run.run()
    assert isinstance(run.error, PeerError)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    prompt=st.integers(1, 90),
    tokens=st.integers(1, 40),
    vocabulary=st.sampled_from([2, 3, 1 << 16]),
)
def test_random_faults_never_change_lose_or_double_a_token(
    world, undisturbed, seed, prompt, tokens, vocabulary
):
    rng = random.Random(seed)
    run = world(seed, TWICE, vocabulary=vocabulary)
    run.forgetful = rng.random() < 0.5
    ids = tuple(rng.randrange(vocabulary) for _ in range(prompt))
    run.ask(ids, tokens)
    for _ in range(rng.randrange(6)):
        name, time = rng.choice(sorted(TWICE)), rng.random() * 2
        notice = None if rng.random() < 0.3 else 0.01
        run.at(time, lambda n=name, heard=notice: run.kill(n, notice=heard))
        run.at(time + 0.5 + rng.random() * 3, lambda n=name: run.start(n))
    run.run()
    expected = undisturbed(ids, tokens, vocabulary)
    assert run.emitted == expected[: len(run.emitted)]
    if run.error is None:
        assert run.emitted == expected
    assert run.violations == []


def _opinions(prompt, undisturbed):
    """What the model says behind each token of the prompt, beside the token that really follows."""
    return [(undisturbed(prompt[:at], 1)[0], prompt[at]) for at in range(1, len(prompt))]


@pytest.mark.parametrize("length", [1, 2, 4, 5, 8, 11])
def test_a_prompt_is_scored_token_by_token_and_its_answer_is_the_same(length, world, undisturbed):
    run = world(1, THREE)
    core = run.ask(PROMPT[:length], 5, score_prompt=True)
    run.run()
    assert core.scoring.scores == _opinions(PROMPT[:length], undisturbed)
    assert run.emitted == undisturbed(PROMPT[:length], 5)
    assert run.violations == []


@given(seed=st.integers(0, 10_000), when=st.floats(0.0, 0.4), victim=st.sampled_from(["a", "b", "c"]))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_lost_node_changes_no_score(seed, when, victim, world, undisturbed):
    run = world(seed, TWICE)
    core = run.ask(PROMPT, 10, score_prompt=True)
    run.at(when, lambda: run.kill(victim))
    run.run()
    assert run.error is None
    assert core.scoring.scores == _opinions(PROMPT, undisturbed)
    assert run.emitted == undisturbed(PROMPT, 10)
