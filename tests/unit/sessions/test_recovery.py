"""What a recovery computes again: the lost span, and not what others still have."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.types import LayerSpan, NodeId

THREE = {"a": LayerSpan(0, 2), "b": LayerSpan(2, 4), "c": LayerSpan(4, 6)}
TWICE = {**THREE, "a2": LayerSpan(0, 2), "b2": LayerSpan(2, 4), "c2": LayerSpan(4, 6)}
PROMPT = tuple(range(300, 380))
TOKENS = 24


def computed(run, name):
    return run.hops[NodeId(name)].computed


def used(run):
    """The nodes of the first path, by the first letter of their names."""
    return {hop.node[0]: hop.node for hop in run.core.path.hops}


def lose(world, place, *, seed=1, at=0.9, log_bytes=1 << 28, more=lambda run: None):
    """Run an answer of which one hop is killed; return the run, and which nodes were on the first path."""
    run = world(seed, TWICE)
    for hop in run.hops.values():
        hop.log_bytes = log_bytes
        hop.start()
    first: dict[str, str] = {}

    def kill():
        first.update(used(run))
        run.kill(first[place])

    run.ask(PROMPT, TOKENS)
    run.at(at, kill)
    more(run)
    run.run()
    return run, first


@pytest.mark.parametrize("place", ["a", "b", "c"])
def test_only_the_lost_span_computes_again(place, world, undisturbed):
    run, first = lose(world, place)
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert run.violations == []
    assert len(run.emitted) > 0
    for letter, name in first.items():
        if letter == place:
            other = name[0] if name.endswith("2") else name + "2"
            assert computed(run, other) >= len(PROMPT), "the replacement got it all"
        else:
            assert computed(run, name) < len(PROMPT) + TOKENS + 8, "the others did not compute again"


def test_a_hop_that_keeps_no_log_computes_again_and_the_one_after_the_hole_does_not(world, undisturbed):
    run, first = lose(world, "b", log_bytes=0)
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert computed(run, first["a"]) >= 2 * len(PROMPT)
    assert computed(run, first["c"]) < len(PROMPT) + TOKENS + 8


def test_two_neighbours_lost_at_once_are_filled_through_each_other(world, undisturbed):
    run, first = lose(
        world,
        "b",
        more=lambda run: run.at(0.9001, lambda: run.kill(used(run)["c"] if run.core.path else "c")),
    )
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert computed(run, first["a"]) < len(PROMPT) + TOKENS + 8


@pytest.mark.parametrize("after", [0.001, 0.012, 0.02, 0.03, 0.05, 0.08])
@pytest.mark.parametrize("notice", [0.004, None])
def test_the_replacement_that_fails_too_is_replaced(after, notice, world, undisturbed):
    """While it is opened, while it is filled, and just after."""
    run = world(1, {**TWICE, "b3": LayerSpan(2, 4)})
    lost: list[str] = []

    def kill_again():
        if run.core.path is None or used(run)["b"] == lost[0]:  # as soon as there is the next path
            run.at(run.now + 0.001, kill_again)
            return
        lost.append(used(run)["b"])
        run.kill(lost[-1], notice=notice)

    def kill():
        lost.append(used(run)["b"])
        run.kill(lost[0])
        run.at(run.now + after, kill_again)

    run.ask(PROMPT, TOKENS)
    run.at(0.9, kill)
    run.run()
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert (run.finish, run.violations) == ("length", [])
    assert run.core.recoveries >= 2


def test_a_lost_hop_with_a_reused_prefix_is_replayed_from_where_the_log_begins(world, undisturbed):
    run = world(3, TWICE)
    for name in ("a2", "b2", "c2"):
        run.kill(name)
    run.ask(PROMPT, 8)
    run.run()
    run.settle()
    turn = (*PROMPT, *run.emitted, 7, 8, 9)
    for name in ("a2", "b2", "c2"):
        run.start(name)
        run.hops[NodeId(name)].kept = dict(run.hops[NodeId(name[0])].kept)
    run.emitted = []
    before = {name: computed(run, name) for name in TWICE}
    run.ask(turn, TOKENS)
    first = {}

    def kill():
        first.update(used(run))
        run.kill(first["b"])

    run.at(run.now + 0.5, kill)
    run.run()
    assert run.emitted == undisturbed(turn, TOKENS)
    for letter in ("a", "c"):
        assert computed(run, first[letter]) - before[first[letter]] < TOKENS + 64 + 8


def test_the_hop_that_is_left_is_told_and_holds_nothing(world):
    run, _ = lose(world, "b")
    run.settle()
    assert run.sessions_open() == 0


@given(
    seed=st.integers(0, 10_000),
    kills=st.lists(st.tuples(st.floats(0.05, 3.0), st.sampled_from(sorted(TWICE))), max_size=6),
    log_bytes=st.sampled_from([0, 3000, 12000, 1 << 28]),
    vocabulary=st.sampled_from([2, 3, 1 << 16]),
)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_losses_in_a_row_with_logs_of_any_size_change_no_token(
    world, undisturbed, seed, kills, log_bytes, vocabulary
):
    run = world(seed, TWICE, vocabulary=vocabulary)
    for hop in run.hops.values():
        hop.log_bytes = log_bytes
        hop.start()
    prompt = tuple(token % vocabulary for token in PROMPT[:37])
    run.ask(prompt, TOKENS)
    for when, name in kills:
        run.at(when, lambda n=name: run.kill(n))
        run.at(when + 0.7, lambda n=name: run.start(n))
    run.run()
    text = undisturbed(prompt, TOKENS, vocabulary)
    assert run.violations == []
    if run.error is None:
        assert run.emitted == text
    else:
        assert len(kills) > 3, "four losses in a row without a token between them end an answer, fewer do not"
        assert run.emitted == text[: len(run.emitted)]
