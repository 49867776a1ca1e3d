"""Who is next among those that wait for room, and how long that may take."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from swarm.api.line import MAX_SECONDS, Line, Running, Waiting, seconds_until_room


def jain(shares: list[int]) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def let_in(line: Line) -> Waiting | None:
    """Take who is next, for whom there is room."""
    taken = line.take()
    if taken is not None:
        line.decided(taken, let_in=True)
    return taken


def test_first_come_first_served_within_a_key():
    line = Line({})
    waiting = [Waiting("a", 10) for _ in range(5)]
    for one in waiting:
        line.add(one)
    assert [line.take() for _ in range(6)] == [*waiting, None]


def test_the_key_that_holds_least_is_next():
    held = {"a": 100, "b": 50}
    line = Line(held)
    for scope in "ab":
        line.add(Waiting(scope, 10))
    first = line.take()
    assert first is not None
    assert first.scope == "b"


def test_a_key_that_asks_for_more_at_once_gets_no_more_than_others():
    held: Counter[str] = Counter()
    line = Line(held)
    for scope, count in (("greedy", 140), ("a", 20), ("b", 20), ("c", 20)):
        for _ in range(count):
            line.add(Waiting(scope, 100))
    running: list[Waiting] = []
    served: Counter[str] = Counter()
    for _ in range(80):
        if len(running) == 8:
            ended = running.pop(0)
            held[ended.scope] -= ended.tokens
        taken = let_in(line)
        assert taken is not None
        held[taken.scope] += taken.tokens
        served[taken.scope] += 1
        running.append(taken)
    assert jain([served[scope] for scope in ("greedy", "a", "b", "c")]) > 0.99


def test_with_a_single_room_keys_take_turns():
    line = Line({})
    for scope in "aaaabb":
        line.add(Waiting(scope, 10))
    order = ["" if taken is None else taken.scope for taken in (let_in(line) for _ in range(6))]
    assert order == ["a", "b", "a", "b", "a", "a"]


def test_a_key_that_asks_for_long_answers_has_fewer_turns():
    line = Line({})
    for _ in range(30):
        line.add(Waiting("long", 300))
        line.add(Waiting("short", 100))
    first = Counter(taken.scope for taken in (let_in(line) for _ in range(24)) if taken)
    assert (first["short"], first["long"]) == (18, 6)


def test_a_newcomer_does_not_make_up_for_the_time_it_did_not_ask():
    line = Line({})
    for _ in range(40):
        line.add(Waiting("old", 10))
    for _ in range(20):
        let_in(line)
    for _ in range(20):
        line.add(Waiting("new", 10))
    following = Counter(taken.scope for taken in (let_in(line) for _ in range(10)) if taken)
    assert following == {"old": 5, "new": 5}


def test_who_tried_in_vain_before_others_came_has_no_claim_for_that():
    line = Line({})
    for _ in range(20):
        line.add(Waiting("early", 10))
    trying = [line.take() for _ in range(16)]
    for scope in "ab":
        for _ in range(20):
            line.add(Waiting(scope, 10))
    for one in reversed(trying):
        assert one is not None
        line.put_back(one)
    assert Counter(taken.scope for taken in (let_in(line) for _ in range(30)) if taken) == {
        "early": 10,
        "a": 10,
        "b": 10,
    }


def test_who_found_no_room_is_first_again():
    line = Line({})
    first, second = Waiting("a", 10), Waiting("a", 10)
    line.add(first)
    line.add(second)
    assert line.take() is first
    line.put_back(first)
    assert line.take() is first


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 500)), max_size=60), st.data())
def test_nobody_is_lost_and_nobody_comes_twice(requests: list[tuple[str, int]], data: st.DataObject):
    line = Line({})
    inside = [Waiting(*request) for request in requests]
    for one in inside:
        line.add(one)
    for gone in data.draw(st.lists(st.sampled_from(inside), unique_by=id)) if inside else []:
        line.remove(gone)
        inside.remove(gone)
    assert len(line) == len(inside)
    taken = []
    while (one := line.take()) is not None:
        taken.append(one)
    assert sorted(map(id, taken)) == sorted(map(id, inside))


def test_room_is_expected_when_the_first_answer_ends():
    running = [Running(10.0, 100, 200), Running(10.0, 100, 120)]
    assert seconds_until_room(1, running, None) == 2.0
    assert seconds_until_room(2, running, None) == 10.0


def test_whoever_is_further_back_waits_for_whole_answers_too():
    running = [Running(10.0, 100, 120)]
    assert seconds_until_room(3, running, None) == 2.0 + 2 * 12.0


def test_answers_are_expected_to_be_as_long_as_they_usually_are():
    assert seconds_until_room(1, [Running(1.0, 10, 4000)], 60.0) == 5.0
    assert seconds_until_room(1, [Running(8.0, 80, 100)], 60.0) == 2.0


def test_without_a_token_yet_the_pace_of_the_others_counts():
    assert seconds_until_room(2, [Running(5.0, 0, 100), Running(1.0, 10, 20)], None) == 10.0
    assert seconds_until_room(1, [Running(5.0, 0, 100)], None) is None
    assert seconds_until_room(1, [], None) is None


def test_the_expectation_is_bounded():
    assert seconds_until_room(10**6, [Running(1.0, 1, 10**6)], None) == MAX_SECONDS
