"""Limits on who may try to connect, with time as an argument."""

from __future__ import annotations

import pytest

from swarm.config import NetSettings
from swarm.net.gate import YOUNG_SECONDS, AcceptGate, RateLimit, Strikes, source_of
from swarm.protocol.limits import STRIKE_SECONDS, STRIKES
from swarm.types import NodeId

NODE = NodeId("n" * 32)


def test_a_burst_passes_and_then_the_rate_counts() -> None:
    limit = RateLimit(per_second=8, burst=3)
    assert [limit.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert not limit.take("a", 0.0625)
    assert limit.take("a", 0.125)
    assert not limit.take("a", 0.125)


def test_one_source_does_not_use_up_anothers_rate() -> None:
    limit = RateLimit(per_second=1, burst=1)
    assert limit.take("a", 0.0)
    assert limit.take("b", 0.0)
    assert not limit.take("a", 0.0)


def test_an_idle_source_gathers_no_more_than_its_burst() -> None:
    limit = RateLimit(per_second=10, burst=2)
    limit.take("a", 0.0)
    assert [limit.take("a", 1000.0) for _ in range(3)] == [True, True, False]


def test_an_address_has_a_bounded_share_of_unauthenticated_connections() -> None:
    gate = AcceptGate(NetSettings(max_unauthenticated_per_address=2))
    for ticket in range(2):
        assert gate.refusal("192.0.2.1", 0.0) is None
        gate.enter(ticket, "192.0.2.1", 0.0)
    assert "unauthenticated" in str(gate.refusal("192.0.2.1", 0.0))
    assert gate.refusal("192.0.2.2", 0.0) is None
    gate.leave(0)
    assert gate.refusal("192.0.2.1", 0.0) is None


def test_the_oldest_unauthenticated_connection_makes_room() -> None:
    gate = AcceptGate(NetSettings(max_unauthenticated=3))
    entered = [gate.enter(ticket, f"192.0.2.{ticket}", 0.0) for ticket in range(4)]
    assert entered == [None, None, None, 0]
    gate.leave(2)
    assert gate.enter(4, "192.0.2.4", 0.0) is None
    assert gate.enter(5, "192.0.2.5", 0.0) == 1


def test_a_newcomer_waits_for_those_who_have_hardly_begun_and_for_nobody_longer() -> None:
    gate = AcceptGate(NetSettings(max_unauthenticated=2))
    gate.enter(0, "192.0.2.0", 10.0)
    assert gate.full_for(10.0) == 0
    gate.enter(1, "192.0.2.1", 10.5)
    assert gate.full_for(10.75) == pytest.approx(YOUNG_SECONDS - 0.75)
    gate.leave(0)
    assert gate.full_for(10.75) == 0
    gate.enter(2, "192.0.2.2", 11.0)
    assert gate.full_for(10.5 + YOUNG_SECONDS) == 0
    assert gate.enter(3, "192.0.2.3", 10.5 + YOUNG_SECONDS) == 1


def test_who_has_more_than_one_connection_loses_its_oldest_and_nobody_waits_for_it() -> None:
    gate = AcceptGate(NetSettings(max_unauthenticated=4))
    for ticket, source in enumerate("abca"):
        gate.enter(ticket, source, 0.0)
    assert gate.full_for(0.0) == 0
    assert gate.enter(4, "d", 0.0) == 0
    assert gate.full_for(0.0) > 0


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no literal", "no literal"),
    ],
)
def test_an_ipv6_source_is_its_network(host: str, source: str) -> None:
    assert source_of(host) == source


def test_three_strikes_in_a_minute_refuse_a_node_for_a_minute() -> None:
    strikes = Strikes()
    for number in range(STRIKES):
        assert not strikes.refused(NODE, number)
        strikes.strike(NODE, number)
    last = STRIKES - 1
    assert strikes.refused(NODE, last)
    assert strikes.refused(NODE, last + STRIKE_SECONDS - 1)
    assert not strikes.refused(NODE, last + STRIKE_SECONDS)
    assert not strikes.refused(NodeId("o" * 32), last)


def test_strikes_far_apart_refuse_nobody() -> None:
    strikes = Strikes()
    for number in range(STRIKES):
        strikes.strike(NODE, number * STRIKE_SECONDS)
    assert not strikes.refused(NODE, STRIKES * STRIKE_SECONDS)
