"""Which members are dialled when, with time as an argument."""

from __future__ import annotations

import random

import pytest

from swarm.gossip.dialing import (
    FEWEST_AT_ONCE,
    FIRST_AT_ONCE,
    MOST_AT_ONCE,
    STAGGER_SECONDS,
    YOUNG_SECONDS,
    Dialer,
)
from swarm.types import Address, NodeId

OWN = NodeId("a" * 32)
MEMBERS = {NodeId(f"{number:032d}"): (Address("192.0.2.1", 1 + number),) for number in range(40)}


@pytest.fixture
def dialer() -> Dialer:
    return Dialer(OWN, random.Random(1))


def dialled(dialer: Dialer, wanted: dict[NodeId, tuple[Address, ...]], now: float) -> list[NodeId]:
    return [dial.expected for dial in dialer.due(wanted, now, alone=False, courteous=False) if dial.expected]


def test_a_few_members_are_dialled_at_once_and_more_as_links_come_up(dialer: Dialer) -> None:
    wanted = dict(MEMBERS)
    under_way = dialled(dialer, wanted, 0.0)
    assert len(under_way) == FIRST_AT_ONCE
    assert dialer.wakeup(alone=False) == float("inf")
    most = 0
    while wanted:
        done = under_way.pop(0)
        del wanted[done]
        dialer.linked(done)
        under_way += dialled(dialer, wanted, 0.1)
        most = max(most, len(under_way))
    assert most == MOST_AT_ONCE


def test_after_failures_fewer_are_dialled_at_once(dialer: Dialer) -> None:
    for node in dialled(dialer, MEMBERS, 0.0):
        dialer.failed(MEMBERS[node][0], node, 0.1)
    assert len(dialled(dialer, MEMBERS, 0.1)) == FEWEST_AT_ONCE


def test_silent_members_hold_up_no_others(dialer: Dialer) -> None:
    silent = dialled(dialer, MEMBERS, 0.0)
    assert dialled(dialer, MEMBERS, YOUNG_SECONDS / 2) == []
    others = dialled(dialer, MEMBERS, YOUNG_SECONDS)
    assert len(others) == FIRST_AT_ONCE
    assert not set(others) & set(silent)


def test_a_member_that_has_no_time_for_a_handshake_is_given_more_and_more(dialer: Dialer) -> None:
    node, (address,) = next(iter(MEMBERS.items()))
    now, pauses = 0.0, []
    for _ in range(4):
        assert dialled(dialer, {node: (address,)}, now) == [node]
        dialer.failed(address, node, now, overloaded=True)
        pauses.append(dialer.wakeup(alone=False) - now)
        now = dialer.wakeup(alone=False)
    assert [1.0 <= pause / least < 1.5 for pause, least in zip(pauses, (4, 8, 16, 16), strict=True)] == [
        True
    ] * 4
    dialled(dialer, {node: (address,)}, now)
    dialer.failed(address, node, now)
    assert 2.0 <= dialer.wakeup(alone=False) - now < 3.0


def test_bootstrap_addresses_are_tried_in_turn_and_the_next_at_once_when_one_fails(dialer: Dialer) -> None:
    addresses = [Address("192.0.2.9", port) for port in (1, 2, 3)]
    dialer.add_bootstrap(addresses, 0.0)
    (first,) = dialer.due({}, 0.0, alone=True)
    assert dialer.due({}, STAGGER_SECONDS / 2, alone=True) == []
    dialer.failed(first.address, None, STAGGER_SECONDS / 2)
    (second,) = dialer.due({}, STAGGER_SECONDS / 2, alone=True)
    (third,) = dialer.due({}, 2 * STAGGER_SECONDS, alone=True)
    assert {first.address, second.address, third.address} == set(addresses)


def test_no_more_are_dialled_than_there_is_room_for(dialer: Dialer) -> None:
    assert dialer.due(MEMBERS, 0.0, alone=False, courteous=False, room=0) == []
    (only,) = dialer.due(MEMBERS, 0.0, alone=False, courteous=False, room=1)
    assert dialer.due(MEMBERS, 0.1, alone=False, courteous=False, room=1) == []
    dialer.linked(only.expected)
    wanted = {node: addresses for node, addresses in MEMBERS.items() if node != only.expected}
    assert dialer.due(wanted, 0.2, alone=False, courteous=False, room=0) == []
    assert len(dialer.due(wanted, 0.2, alone=False, courteous=False)) == FIRST_AT_ONCE + 1


def test_who_is_late_itself_gives_attempts_more_time_before_it_begins_others(dialer: Dialer) -> None:
    assert len(dialled(dialer, MEMBERS, 0.0)) == FIRST_AT_ONCE
    assert dialer.due(MEMBERS, 2 * YOUNG_SECONDS, alone=False, courteous=False, patience=3.0) == []
    assert dialer.due(MEMBERS, 3 * YOUNG_SECONDS, alone=False, courteous=False, patience=3.0)


def test_a_bootstrap_address_is_not_dialled_again_while_whom_it_led_to_is_linked(dialer: Dialer) -> None:
    """The record of who answered comes a moment after the link."""
    address, node = Address("192.0.2.9", 1), next(iter(MEMBERS))
    dialer.add_bootstrap([address], 0.0)
    assert [dial.address for dial in dialer.due({}, 0.0, alone=True, living={})] == [address]
    dialer.linked(node)
    dialer.answered(address, node)
    assert dialer.due({}, 5.0, alone=False, living={}) == []
    dialer.lost(node, 6.0)
    assert [dial.address for dial in dialer.due({}, 7.0, alone=True, living={})] == [address]
