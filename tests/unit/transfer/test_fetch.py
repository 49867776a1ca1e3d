"""Which chunk is asked of whom: every rule by itself, and whole fetches from members that misbehave at random."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.transfer.fetch import (
    FULL_SECONDS,
    IN_ALL,
    LATE_FACTOR,
    PAUSE_SECONDS,
    PER_MEMBER,
    STUCK_SECONDS,
    Ask,
    Dropped,
    Fetch,
)
from swarm.types import NodeId

A, B, C, D = (NodeId(letter * 32) for letter in "abcd")


def asked(fetch: Fetch) -> list[tuple[NodeId, int]]:
    return [(effect.node, effect.index) for effect in fetch.effects() if isinstance(effect, Ask)]


def deliver(fetch: Fetch, node: NodeId, index: int, now: float) -> None:
    if fetch.arrived(node, index, now):
        fetch.stored(index, now)


def test_a_few_chunks_are_asked_of_one_member_at_once_and_more_as_they_come() -> None:
    fetch = Fetch(range(10))
    fetch.offer(A, range(10), 0.0)
    assert asked(fetch) == [(A, index) for index in range(PER_MEMBER)]
    deliver(fetch, A, 0, 1.0)
    assert asked(fetch) == [(A, PER_MEMBER)]


def test_no_more_than_a_dozen_chunks_are_under_way_in_all() -> None:
    fetch = Fetch(range(100))
    for node in (A, B, C, D):
        fetch.offer(node, range(100), 0.0)
    assert Counter(node for node, _ in asked(fetch)).total() == IN_ALL


def test_no_chunk_is_asked_of_two_while_others_are_left() -> None:
    fetch = Fetch(range(20))
    fetch.offer(A, range(20), 0.0)
    fetch.offer(B, range(20), 0.0)
    indices = [index for _, index in asked(fetch)]
    assert len(indices) == len(set(indices)) == 2 * PER_MEMBER


def test_what_the_fewest_members_have_comes_first() -> None:
    fetch = Fetch(range(8))
    fetch.offer(B, [6, 7], 0.0)
    fetch.effects()
    fetch = Fetch(range(8))
    fetch.offer(C, [0, 1, 2, 3, 4, 5], 0.0)
    fetch.gone(C, 0.0)
    fetch.effects()
    fetch.offer(C, [0, 1, 2, 3], 0.0)
    fetch.effects()
    fetch.offer(A, range(8), 0.0)
    assert [index for node, index in asked(fetch) if node == A] == [4, 5, 6, 7]


def test_fetches_with_other_salts_begin_elsewhere() -> None:
    fetch = Fetch(range(100), salt=50)
    fetch.offer(A, range(100), 0.0)
    assert [index for _, index in asked(fetch)] == [50, 51, 52, 53]


def test_a_member_that_sent_wrong_bytes_is_dropped_and_another_asked() -> None:
    fetch = Fetch([5])
    fetch.offer(A, [5], 0.0)
    fetch.offer(B, [5], 0.0)
    ((first, _),) = asked(fetch)
    assert fetch.arrived(first, 5, 1.0)
    fetch.wrong(first, 5, 1.0)
    effects = fetch.effects()
    other = B if first == A else A
    assert next(effect for effect in effects if isinstance(effect, Dropped)).node == first
    assert Ask(other, 5) in effects
    fetch.offer(first, [5], 2.0)
    assert fetch.effects() == []


def test_what_a_lost_member_was_asked_for_is_asked_of_another() -> None:
    fetch = Fetch([0, 1])
    fetch.offer(A, [0, 1], 0.0)
    assert len(asked(fetch)) == 2
    fetch.offer(B, [0, 1], 0.0)
    fetch.gone(A, 1.0)
    assert sorted(asked(fetch)) == [(B, 0), (B, 1)]


def test_a_silent_member_is_left_alone_for_a_while() -> None:
    fetch = Fetch([0])
    fetch.offer(A, [0], 0.0)
    assert asked(fetch) == [(A, 0)]
    fetch.tick(STUCK_SECONDS - 0.1)
    assert asked(fetch) == []
    fetch.tick(STUCK_SECONDS)
    assert asked(fetch) == []
    fetch.tick(STUCK_SECONDS + PAUSE_SECONDS)
    assert asked(fetch) == [(A, 0)]


def test_a_slow_member_is_not_a_silent_one() -> None:
    fetch = Fetch(range(4))
    fetch.offer(A, range(4), 0.0)
    fetch.effects()
    for number in range(3):
        now = 8.0 * (number + 1)
        fetch.tick(now)
        deliver(fetch, A, number, now)
    assert asked(fetch) == []
    assert fetch.missing == {3}


def test_a_full_member_is_asked_again_soon() -> None:
    fetch = Fetch([0])
    fetch.offer(A, [0], 0.0)
    fetch.effects()
    fetch.refused(A, 0, "full", 1.0)
    assert asked(fetch) == []
    assert fetch.wakeup(1.0) == 1.0 + FULL_SECONDS
    fetch.tick(1.0 + FULL_SECONDS)
    assert asked(fetch) == [(A, 0)]


def test_a_chunk_that_a_member_turns_out_not_to_have_is_asked_of_another() -> None:
    fetch = Fetch([0])
    fetch.offer(A, [0], 0.0)
    fetch.effects()
    fetch.refused(A, 0, "absent", 1.0)
    assert fetch.stalled
    fetch.offer(B, [0], 2.0)
    assert asked(fetch) == [(B, 0)]


def test_at_the_end_a_chunk_that_is_held_up_is_asked_of_another_too() -> None:
    fetch = Fetch(range(2 * PER_MEMBER))
    fetch.offer(A, range(2 * PER_MEMBER), 0.0)
    slow = [index for _, index in asked(fetch)]
    fetch.offer(B, range(2 * PER_MEMBER), 0.0)
    quick = [index for _, index in asked(fetch)]
    for index in quick:
        deliver(fetch, B, index, 0.1)
    assert asked(fetch) == []
    fetch.tick(0.2 + LATE_FACTOR * 0.1)
    again = asked(fetch)
    assert {node for node, _ in again} == {B}
    assert {index for _, index in again} == set(slow)
    for index in slow:
        deliver(fetch, B, index, 1.0)
    assert fetch.done
    assert not fetch.arrived(A, slow[0], 2.0)


def test_nobody_having_what_is_missing_is_a_stall() -> None:
    fetch = Fetch([0, 1])
    assert fetch.stalled
    fetch.offer(A, [0], 0.0)
    assert not fetch.stalled
    deliver(fetch, A, 0, 1.0)
    assert fetch.stalled


events = st.lists(
    st.tuples(
        st.sampled_from(["deliver", "wrong", "lose", "back", "full", "absent", "wait"]), st.integers(0, 50)
    ),
    max_size=60,
)


class Members:
    """Three members asked by one fetch: A and B do what the script says, C what it is asked, late or early."""

    def __init__(self, size: int, salt: int) -> None:
        self.size = size
        self.fetch = Fetch(range(size), salt=salt)
        self.open_at: dict[NodeId, set[int]] = {A: set(), B: set(), C: set()}
        self.stored: set[int] = set()
        self.dropped: set[NodeId] = set()
        self.now = 0.0
        for node in (A, B, C):
            self.fetch.offer(node, range(size), self.now)
        self.collect()

    def collect(self) -> None:
        for effect in self.fetch.effects():
            if isinstance(effect, Dropped):
                self.dropped.add(effect.node)
                self.open_at[effect.node].clear()
            else:
                assert effect.node not in self.dropped
                assert effect.index not in self.stored
                self.open_at[effect.node].add(effect.index)

    def arrive(self, node: NodeId, index: int, *, right: bool = True) -> None:
        self.open_at[node].discard(index)
        if self.fetch.arrived(node, index, self.now):
            assert index not in self.stored
            if right:
                self.stored.add(index)
                self.fetch.stored(index, self.now)
            else:
                self.fetch.wrong(node, index, self.now)
        self.collect()

    def act(self, what: str, number: int) -> None:
        node = (A, B, C)[number % 3]
        waiting = sorted(self.open_at[node])
        if what == "wait":
            self.now += number
            self.fetch.tick(self.now)
        elif what == "back":
            self.fetch.offer(node, range(self.size), self.now)
        elif what == "lose" and node != C:
            self.lose(node)
        elif waiting:
            self.answer(what, node, waiting[number % len(waiting)])
        self.collect()

    def answer(self, what: str, node: NodeId, index: int) -> None:
        if what == "deliver":
            self.arrive(node, index)
        elif what == "wrong" and node != C:
            self.arrive(node, index, right=False)
        elif what in ("full", "absent") and node != C:
            self.open_at[node].discard(index)
            self.fetch.refused(node, index, what, self.now)

    def lose(self, node: NodeId) -> None:
        self.open_at[node].clear()
        self.fetch.gone(node, self.now)
        self.collect()


@given(st.integers(1, 40), st.integers(0, 40), events)
@settings(max_examples=300)
def test_whatever_members_do_one_honest_one_is_enough_in_the_end(
    size: int, salt: int, script: list[tuple[str, int]]
) -> None:
    members = Members(size, salt)
    for what, number in script:
        members.now += 0.05 * (number % 5)
        members.act(what, number)
    # From here on only C answers, and it answers everything.
    members.lose(A)
    members.lose(B)
    for _ in range(20 * size + 100):
        for index in sorted(members.open_at[C]):
            members.arrive(C, index)
        members.now = max(members.now + 0.1, members.fetch.wakeup(members.now))
        members.fetch.tick(members.now)
        members.collect()
        if members.fetch.done:
            break
    assert members.fetch.done
    assert members.stored == set(range(size))
