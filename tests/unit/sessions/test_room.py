"""Whose session ends when a hop has no KV left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.sessions.hop_session import HopKey
from swarm.sessions.room import (
    FIRST_RETRY_MILLISECONDS,
    MAX_RETRY_MILLISECONDS,
    Shortage,
    Turnover,
    gives_way,
)
from swarm.types import NodeId, SessionId

OWN, ANNA, BEN = NodeId("own"), NodeId("anna"), NodeId("ben")


def key(origin: NodeId, number: int) -> HopKey:
    return HopKey(origin, SessionId(bytes([number]) * 16), 0)


def ends(held: dict[HopKey, int], need: HopKey, wanted: int = 10, *, grows: bool) -> HopKey | None:
    return gives_way(Shortage(need, wanted, grows), held, own=OWN, share_bytes=50)


def test_who_has_more_than_its_share_makes_room_for_others():
    held = {key(ANNA, 1): 40, key(ANNA, 2): 40, key(BEN, 3): 20}
    assert ends(held, key(BEN, 4), grows=False) == key(ANNA, 2)
    assert ends(held, key(OWN, 4), grows=False) == key(ANNA, 2)
    assert ends(held, key(BEN, 3), grows=True) == key(ANNA, 2)


def test_who_has_more_than_its_share_takes_nobodys_room():
    held = {key(BEN, 1): 40, key(ANNA, 2): 40, key(ANNA, 3): 15}
    assert ends(held, key(ANNA, 4), grows=False) is None
    assert ends(held, key(ANNA, 2), grows=True) == key(ANNA, 3)
    assert ends({key(ANNA, 1): 60, key(BEN, 2): 40}, key(ANNA, 1), grows=True) is None


def test_a_newcomer_ends_no_session_of_those_within_their_share():
    held = {key(ANNA, 1): 50, key(BEN, 2): 50}
    assert ends(held, key(OWN, 3), grows=False) is None


def test_a_session_that_grows_ends_the_youngest():
    held = {key(ANNA, 1): 30, key(BEN, 2): 30, key(OWN, 3): 40}
    assert ends(held, key(ANNA, 1), grows=True) == key(OWN, 3)


def test_the_youngest_itself_waits():
    held = {key(ANNA, 1): 30, key(BEN, 2): 30}
    assert ends(held, key(BEN, 2), grows=True) is None


@given(st.lists(st.tuples(st.sampled_from([OWN, ANNA, BEN]), st.integers(1, 60)), min_size=1, max_size=12))
def test_whoever_grows_the_oldest_goes_on(sizes: list[tuple[NodeId, int]]):
    """However many grow, the oldest session of an origin within its share is never ended: some answer completes."""
    held = {key(origin, number): size for number, (origin, size) in enumerate(sizes)}
    shares = {
        origin: sum(size for key_, size in held.items() if key_.origin == origin) for origin, _ in sizes
    }
    oldest = next(iter(held))
    if oldest.origin != OWN and shares[oldest.origin] > 50:
        return
    for need in list(held):
        if need != oldest:
            assert ends(held, need, grows=True) != oldest


def test_room_is_expected_as_often_as_sessions_have_ended():
    turnover = Turnover()
    assert turnover.retry_milliseconds(0.0) == FIRST_RETRY_MILLISECONDS
    for second in range(0, 30, 3):
        turnover.ended(float(second))
    assert turnover.retry_milliseconds(27.5) == 3000
    assert turnover.retry_milliseconds(37.0) == 10_000
    assert turnover.retry_milliseconds(1e6) == MAX_RETRY_MILLISECONDS
