"""Hops that answer with what is of no use or can't be: they are left, and the text is what it would have been."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from swarm.errors import OverloadedError, PeerError, ProtocolError
from swarm.protocol.messages import Opened, OpenSession, Refused
from swarm.sessions.effects import Fail, FindPath, Send, Shun
from swarm.types import LayerSpan, NodeId
from tests.unit.sessions.test_outputs import HOP, STRANGER, Driven

SPANS = {
    letter + twin: LayerSpan(2 * at, 2 * at + 2) for at, letter in enumerate("abc") for twin in ("", "2")
}
PROMPT = tuple(range(300, 340))
TOKENS = 40
PREFILL, DECODE = 0.0, 0.9


def used(run):
    return {hop.node[0]: hop.node for hop in run.core.path.hops}


def left(world, place, garbles, at, *, spans=SPANS, seed=4):
    """Run an answer one of whose hops hands on garbage from ``at`` on; return the run, and that hop."""
    run = world(seed, spans)
    run.ask(PROMPT, TOKENS)
    culprit: list[str] = []

    def garble():
        culprit.append(used(run)[place])
        run.hops[NodeId(culprit[0])].garbles = garbles

    run.at(at, garble)
    run.run()
    return run, culprit[0]


@pytest.mark.parametrize("at", [PREFILL, DECODE])
@pytest.mark.parametrize("garbles", ["rows", "size"])
@pytest.mark.parametrize("place", ["a", "b", "c"])
def test_a_hop_that_returns_garbage_is_left_and_no_token_is_changed(place, garbles, at, world, undisturbed):
    run, culprit = left(world, place, garbles, at)
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert (run.finish, run.error) == ("length", None)
    assert run.core.recoveries == 1
    assert culprit not in [hop.node for hop in run.core.last_path.hops]
    run.settle()
    assert run.sessions_open() == 0


@pytest.mark.parametrize("place", ["a", "b"])
def test_who_got_garbage_is_not_left_for_it(place, world, undisturbed):
    """There is one hop only behind the one to blame: were it avoided there would be no path."""
    after = chr(ord(place) + 1)
    spans = {name: span for name, span in SPANS.items() if name != after + "2"}
    run, culprit = left(world, place, "rows", DECODE, spans=spans)
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert run.core.recoveries == 1
    assert culprit not in [hop.node for hop in run.core.last_path.hops]


def test_a_hop_that_accuses_one_neighbour_after_the_other_is_left_itself(world, undisturbed):
    run = world(4, {**SPANS, "a3": SPANS["a"], "a4": SPANS["a"], "a5": SPANS["a"]})
    deliver, liar = run.deliver, []
    # The liar is on every path that does not avoid it.
    run.rng.choice = lambda hops: next((hop for hop in hops if hop.node in liar), hops[0])

    def lie(sender, receiver, message, payload=b""):
        if liar and receiver == liar[0] and type(message).__name__ == "Step" and not message.fill_until:
            session = next(iter(run.hops[receiver].sessions), None)
            if session is not None:
                refused = Refused(
                    message.origin, message.session, message.epoch, "bad_tensor", next=session.upstream
                )
                run.to_origin(run.hops[receiver], refused)
            return
        deliver(sender, receiver, message, payload)

    run.deliver = lie
    run.ask(PROMPT, TOKENS)
    run.at(DECODE, lambda: liar.append(NodeId(used(run)["b"])))
    run.run()
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert run.core.recoveries == 2
    assert liar[0] not in [hop.node for hop in run.core.last_path.hops]


def test_times_of_more_hops_than_there_are_are_garbage_too(world, undisturbed):
    run, culprit = left(world, "c", "times", DECODE)
    assert run.emitted == undisturbed(PROMPT, TOKENS)
    assert culprit not in [hop.node for hop in run.core.last_path.hops]


@pytest.fixture
def driven() -> Driven:
    return Driven()


def opening(driven: Driven) -> list[OpenSession]:
    return [
        effect.message
        for effect in driven.core.effects()
        if isinstance(effect, Send) and isinstance(effect.message, OpenSession)
    ]


def refuse(driven: Driven, code: str, **more: object) -> None:
    asked = driven.core.request
    driven.core.refused(HOP, Refused(asked.origin, asked.session, driven.core.epoch, code, **more), 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "lie",
    [
        {"kv_length": -1},
        {"hit_tokens": -1},
        {"hit_tokens": 3},
        {"floor": -1},
        {"floor": 3},
        {"log_from": -2},
        {"log_from": 3},
    ],
)
def test_an_opened_that_can_not_be_breaks_the_link(lie, driven):
    refuse(driven, "log_gap")
    (asked,) = opening(driven)
    true = Opened(asked.origin, asked.session, asked.epoch, 2, 0, index=0)
    with pytest.raises(ProtocolError, match="Opened"):
        driven.core.opened(HOP, replace(true, **lie), 0.0)
    driven.core.opened(HOP, true, 0.0)
    assert driven.core.dropped == {}


def test_a_hop_with_a_gap_whatever_it_is_asked_for_is_left(driven):
    opened = 0
    for _ in range(20):
        refuse(driven, "log_gap")
        effects = driven.core.effects()
        if any(isinstance(effect, FindPath) and HOP in effect.avoid_nodes for effect in effects):
            break
        opened += 1
    assert opened == 3


def test_a_hop_that_says_it_can_not_reach_a_stranger_is_left(driven):
    refuse(driven, "unreachable", next=STRANGER)
    effects = driven.core.effects()
    assert not any(isinstance(effect, Shun) for effect in effects)
    assert any(isinstance(effect, FindPath) and HOP in effect.avoid_nodes for effect in effects)


def test_what_a_hop_says_to_clients_is_bounded(driven):
    refuse(driven, "full", retry_milliseconds=1 << 60, detail="x" * 60_000)
    error = driven.core._search.last_error
    assert isinstance(error, OverloadedError)
    assert error.retry_after_seconds == 60
    assert len(str(error)) < 400
    again = Driven()
    refuse(again, "failed", detail="x" * 60_000)
    assert isinstance(again.core._search.last_error, PeerError)
    assert len(str(again.core._search.last_error)) < 400
    assert not any(isinstance(effect, Fail) for effect in again.core.effects())
