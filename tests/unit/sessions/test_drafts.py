"""Guesses looked up in the text so far."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.sessions.drafts import FREE_ROWS, PAUSE_TOKENS, Drafter


def test_what_followed_the_last_tokens_before_is_proposed_again():
    drafter = Drafter([1, 2, 3, 4, 5, 9, 1, 2, 3], 7)
    assert drafter.propose(rows_of_others=0, room=10) == (4, 5)


def test_the_newest_place_and_the_longest_match_win():
    drafter = Drafter([1, 2, 3, 7, 8, 2, 3, 5, 6, 1, 2, 3], 7)
    assert drafter.propose(rows_of_others=0, room=10) == (7, 8)


def test_nothing_is_proposed_for_new_text_or_when_switched_off():
    assert Drafter([1, 2, 3, 4], 7).propose(rows_of_others=0, room=10) == ()
    assert Drafter([1, 2, 1, 2, 1, 2], 0).propose(rows_of_others=0, room=10) == ()


def test_a_busy_hop_gets_no_drafts():
    drafter = Drafter([1, 2, 1, 2, 1, 2], 7)
    assert drafter.propose(rows_of_others=FREE_ROWS, room=10) == ()
    assert len(drafter.propose(rows_of_others=FREE_ROWS - 2, room=10)) == 1


def test_drafts_grow_while_they_come_true():
    drafter = Drafter([1, 2] * 40, 7)
    lengths = []
    for _ in range(4):
        drafts = drafter.propose(rows_of_others=0, room=100)
        lengths.append(len(drafts))
        drafter.judged(len(drafts), len(drafts))
    assert lengths == sorted(lengths)
    assert lengths[-1] == 7


def test_drafts_that_never_come_true_pause_and_are_tried_again():
    drafter = Drafter([1, 2] * 10, 7)
    while drafts := drafter.propose(rows_of_others=0, room=100):
        drafter.judged(len(drafts), 0)
    drafter.extend([1, 2] * (PAUSE_TOKENS // 2))
    assert drafter.propose(rows_of_others=0, room=100) != ()


@given(tokens=st.lists(st.integers(0, 3), max_size=60), room=st.integers(0, 9), most=st.integers(0, 9))
def test_drafts_never_exceed_the_room_and_repeat_what_stood_in_the_text(tokens, room, most):
    drafts = Drafter(tokens, most).propose(rows_of_others=0, room=room)
    assert len(drafts) <= min(room, most)
    if drafts:
        longer = [*tokens, *drafts]
        places = range(len(tokens), len(longer))
        assert any(
            all(longer[at] == longer[at - period] for at in places) for period in range(1, len(tokens) + 1)
        )
