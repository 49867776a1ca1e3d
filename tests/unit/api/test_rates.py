"""Requests a minute: the window moves, and scopes don't count against each other."""

from __future__ import annotations

from swarm.api.rates import Rates


def test_a_scope_may_ask_again_when_its_oldest_request_leaves_the_window() -> None:
    rates = Rates()
    assert [rates.take("a", 2, now) for now in (0.0, 10.0)] == [0.0, 0.0]
    assert rates.take("a", 2, 15.0) == 45.0
    assert rates.take("a", 2, 60.0) == 0.0
    assert rates.take("a", 2, 61.0) == 9.0


def test_refused_requests_and_other_scopes_do_not_count() -> None:
    rates = Rates()
    assert rates.take("a", 1, 0.0) == 0.0
    assert rates.take("a", 1, 59.0) > 0
    assert rates.take("b", 1, 59.0) == 0.0
    assert rates.take("a", 1, 60.0) == 0.0
