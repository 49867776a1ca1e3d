"""A plan of flows brings every hop to one length, from sources that hold what they send."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.sessions.fill import Filler, Flow, HopState, Plan, plan
from swarm.sessions.window import StepWindow

hop_states = st.builds(
    lambda length, log_from, floor, layers: HopState(
        length, min(log_from, length) if log_from >= 0 else -1, min(floor, length), layers
    ),
    st.integers(0, 50),
    st.integers(-1, 50),
    st.sampled_from([0, 0, 0, 10]),
    st.integers(1, 8),
)


def test_a_lost_hop_is_filled_from_the_log_before_it():
    states = [HopState(100, 0), HopState(0), HopState(100, 0)]
    assert plan(states, 100) == Plan(100, (Flow(0, 0, 100, 2),))


def test_the_first_hop_is_filled_by_the_origin():
    assert plan([HopState(0), HopState(100, 0)], 100) == Plan(100, (Flow(-1, 0, 100, 1),))


def test_a_log_that_begins_late_makes_the_hop_before_compute_again_and_not_the_one_behind():
    states = [HopState(100, 60), HopState(0), HopState(100, 0)]
    assert plan(states, 100) == Plan(100, (Flow(-1, 0, 100, 2),))


def test_a_replacement_with_the_prefix_takes_only_the_rest():
    states = [HopState(100, 64), HopState(64), HopState(100, 64)]
    assert plan(states, 100) == Plan(100, (Flow(0, 64, 100, 2),))


def test_hops_that_hold_nothing_are_not_filled_one_by_one():
    assert plan([HopState(0)] * 3, 100) == Plan(0, ())


def test_what_only_the_front_of_a_long_path_has_computed_is_not_thrown_away():
    states = [HopState(90, 0), HopState(0, 0), HopState(50, 0)]
    assert plan(states, 100) == Plan(90, (Flow(0, 0, 90, 2), Flow(1, 50, 90, 3)))


def test_a_hop_that_can_not_go_back_leaves_no_plan():
    assert plan([HopState(100, -1, floor=60), HopState(0)], 100) is None


def test_a_fixed_hop_is_never_taken_back():
    states = [HopState(100, 60), HopState(0), HopState(100, 0)]
    assert plan(states, 100, fixed=frozenset({0, 2})) == Plan(0, ())


@given(states=st.lists(hop_states, min_size=1, max_size=6), target=st.integers(1, 60))
def test_following_a_plan_brings_every_hop_to_its_position(states, target):
    found = plan(states, target)
    if found is None:
        assert any(state.floor for state in states)
        return
    lengths = [state.length for state in states]
    logs = [state.log_from for state in states]
    for flow in found.flows:
        assert flow.start < flow.end <= found.position <= target
        if flow.source >= 0:
            assert 0 <= logs[flow.source] <= flow.start
            assert flow.end <= lengths[flow.source]
        for place in range(flow.source + 1, flow.until):
            assert states[place].floor <= flow.start <= lengths[place] or flow.start == lengths[place]
            logs[place] = min(logs[place], flow.start)
            lengths[place] = flow.end
    for state, length in zip(states, lengths, strict=True):
        assert length >= found.position
        assert state.floor <= found.position or length == found.position


@given(
    flows=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=4),
    chunk=st.integers(1, 7),
    most=st.integers(1, 4),
)
def test_a_filler_sends_each_position_of_each_flow_once_and_in_order(flows, chunk, most):
    filler = Filler(StepWindow(step_seconds=0.01, min_seconds=1.0, factor=4.0), chunk=chunk, most=most)
    filler.add([Flow(-1, start, start + count, 1) for start, count in flows])
    sent, waiting = [], []
    while not filler.done:
        while (found := filler.next()) is not None:
            waiting.append(filler.sent(found, 0.0))
            sent.append((found.start, found.end))
        assert len(waiting) <= most
        assert filler.filled(99, 0.0) is None
        assert filler.filled(waiting.pop(0), 0.0) is not None
    positions = [at for start, end in sent for at in range(start, end)]
    assert positions == [at for start, count in flows for at in range(start, start + count)]
