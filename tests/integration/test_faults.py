"""Nodes of the real model killed, frozen and lost under running answers (F1, F2, F4 of docs/reliability.md).

This swarm is its own: it does not survive as it began. Its tests build on each other. Numbers are printed and recorded,
behaviour is asserted; all 72 cases of F1 are scripts/kill_matrix.py's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.pressure import metric
from tests.support.reference import reference
from tests.support.streams import Heard, body_of, hear
from tests.support.swarm_process import MODEL, NodeProcess, SwarmProcesses, swarm_of, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.real_model, pytest.mark.timeout(600)]

QUESTION = "List two animals that can fly, and say why each of them can."
TOKENS = 24
AFTER_KILL = 40
"""So many tokens are still to come when a hop is killed: more than are computed before the client hears of the last."""
SPANS = ("0:10", "10:20", "20:30")
MIDDLES = {"0:10": 5, "10:20": 15, "20:30": 25}
SEEDED = {"temperature": 0.8, "seed": 11}

Report = Callable[[str, object], None]


@pytest.fixture(scope="module")
def swarm() -> Iterator[SwarmProcesses]:
    """A front door without layers, and two holders of each third of the model."""
    settings = "[api]\nkeepalive_seconds = 1.0\n"
    with swarm_of(["none", *SPANS, *SPANS], doors=[True] + [False] * 6, settings=settings) as running:
        for span in SPANS:
            wait_for(f"two holders of {span}", lambda span=span: running.holders(running.nodes[0], span) == 2)
        yield running


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Report:
    def say(name: str, value: object) -> None:
        record_property(name, value)
        print(f"{name}: {value}")

    return say


def ask(
    swarm: SwarmProcesses, body: dict[str, Any], on_text: Callable[[int, Heard], None] | None = None
) -> Heard:
    async def listen() -> Heard:
        async with httpx.AsyncClient() as client:
            return await hear(client, swarm.nodes[0].url, body, on_text or (lambda count, heard: None))

    return asyncio.run(listen())


def once(step: int, act: Callable[[Heard], None]) -> Callable[[int, Heard], None]:
    return lambda count, heard: act(heard) if count == step else None


def assert_whole(heard: Heard, text: str, tokens: int = TOKENS) -> None:
    """Nothing lost, nothing doubled, nothing changed, one end."""
    assert heard.whole, heard
    assert heard.text == text
    assert heard.finish == ["length"]
    assert heard.usage["completion_tokens"] == tokens


@pytest.mark.parametrize(
    ("span", "step", "sampling"),
    [
        ("0:10", 0, {}),
        ("10:20", 7, {}),
        ("20:30", 15, SEEDED),
        ("0:10", 20, SEEDED),
    ],
)
def test_1_a_hop_killed_at_any_step_costs_no_token(
    swarm: SwarmProcesses, report: Report, span: str, step: int, sampling: dict[str, Any]
):
    tokens = step + AFTER_KILL
    body = body_of(MODEL, QUESTION, tokens, **sampling)
    text = ask(swarm, body).text if sampling else reference(QUESTION, tokens, ignore_eos=True)
    wait_for(f"two holders of {span}", lambda: swarm.holders(swarm.nodes[0], span) == 2)
    killed: list[NodeProcess] = []
    before = metric(swarm.nodes[0], "swarm_failovers_total")

    def kill(heard: Heard) -> None:
        killed.append(swarm.on_route(heard.route, MIDDLES[span]))
        killed[0].kill()

    heard = ask(swarm, body, once(step, kill))
    killed[0].start()
    assert metric(swarm.nodes[0], "swarm_failovers_total") > before
    report(f"F1 {span} at step {step}: longest pause (s)", round(heard.pause, 2))
    assert_whole(heard, text, tokens)


def test_2_a_killed_node_leaves_every_view_and_comes_back(swarm: SwarmProcesses):
    door = swarm.nodes[0]
    victim = swarm.nodes[1]
    wait_for("two holders of 0:10", lambda: swarm.holders(door, "0:10") == 2)
    victim.kill()
    wait_for("the killed node to be gone", lambda: swarm.holders(door, "0:10") == 1)
    victim.start()
    wait_for("it to be back", lambda: swarm.holders(door, "0:10") == 2)


def test_3_a_frozen_hop_is_left_and_what_it_says_later_changes_nothing(swarm: SwarmProcesses, report: Report):
    """F2: frozen under an answer, thawed while the answer goes on elsewhere."""
    tokens = 120
    frozen: list[tuple[NodeProcess, float]] = []

    def act(count: int, heard: Heard) -> None:
        if count == 10:
            victim = swarm.on_route(heard.route, MIDDLES["10:20"])
            frozen.append((victim, time.monotonic()))
            victim.pause()
        elif count == 40:
            frozen[0][0].go_on()

    try:
        heard = ask(swarm, body_of(MODEL, QUESTION, tokens), act)
    finally:
        for victim, _ in frozen:
            victim.go_on()
    report("F2 longest pause (s)", round(heard.pause, 2))
    assert_whole(heard, reference(QUESTION, tokens, ignore_eos=True), tokens)
    wait_for("the thawed node to serve again", lambda: swarm.holders(swarm.nodes[0], "10:20") == 2)
    assert ask(swarm, body_of(MODEL, QUESTION, TOKENS)).text == reference(QUESTION, TOKENS, ignore_eos=True)


async def test_4_without_a_holder_who_waits_goes_on_and_who_cannot_is_told(
    swarm: SwarmProcesses, report: Report
):
    """F4: all holders of two adjacent spans die. A stream waits for their return, others get a 503 that names them."""
    door = swarm.nodes[0]
    url = f"{door.url}/v1/chat/completions"
    tokens = 60
    plain = {**body_of(MODEL, QUESTION, 3000), "stream": False, "stream_options": None}
    lost = asyncio.Event()

    def kill(count: int, heard: Heard) -> None:
        if count == 10:
            for node in swarm.nodes[1:]:
                if "0:10" not in node.arguments:
                    node.kill()
            lost.set()

    async with httpx.AsyncClient(timeout=300) as client:
        unseen = asyncio.create_task(client.post(url, json=plain))
        stream = asyncio.create_task(hear(client, door.url, body_of(MODEL, QUESTION, tokens), kill))
        await lost.wait()
        answer = await unseen
        assert answer.status_code == 503
        assert "layers 10:30" in answer.json()["error"]["message"]
        refused = await client.post(url, json={**plain, "max_completion_tokens": 5})
        while refused.status_code == 200:  # in the moment before the loss is seen by all
            refused = await client.post(url, json={**plain, "max_completion_tokens": 5})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        health = await client.get(f"{door.url}/health")
        assert health.status_code == 503
        assert "10:30" in health.text
        assert not stream.done()
        newcomer = await asyncio.to_thread(lambda: swarm.add("auto", api=False, name_model=False))
        heard = await stream
    report("F4 the stream's pause until a newcomer had loaded (s)", round(heard.pause, 1))
    assert_whole(heard, reference(QUESTION, tokens, ignore_eos=True), tokens)
    assert heard.keepalives >= 1
    assert "layers 10:30" in newcomer.log
