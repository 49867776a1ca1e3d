"""Nodes told to stop under load: answers move or end, nothing fails. This swarm does not survive as it began."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from tests.support.reference import reference
from tests.support.swarm_process import MODEL, NodeProcess, SwarmProcesses, swarm_of, wait_for

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        sys.platform == "win32", reason="Windows has no SIGTERM to drain by; Ctrl-Break does it"
    ),
]

QUESTION = "List two animals that can fly, and say why each of them can."
TOKENS = 80


@pytest.fixture(scope="module")
def swarm() -> Iterator[SwarmProcesses]:
    with swarm_of(["0:15", "15:30", "15:30"], doors=[True, False, False]) as running:
        wait_for("three members with spans", lambda: len(members(running.nodes[0])) == 3)
        yield running


def members(door: NodeProcess) -> list[dict]:
    return [member for member in door.get("/swarm/state")[1]["members"] if member["routable"]]


def ask(door: NodeProcess, after_ten=lambda route: None, tokens: int = TOKENS) -> tuple[str, list[str]]:
    """Stream an answer; ``after_ten`` is called with the route after ten pieces. Returns text and finish reasons."""
    pieces: list[str] = []
    finish: list[str] = []
    client = OpenAI(base_url=f"{door.url}/v1", api_key="unused", max_retries=0)
    with client.chat.completions.with_streaming_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_completion_tokens=tokens,
        stream=True,
        extra_body={"ignore_eos": True},
    ) as answer:
        for chunk in answer.parse():
            pieces.append(chunk.choices[0].delta.content or "")
            finish += [chunk.choices[0].finish_reason] if chunk.choices[0].finish_reason else []
            if len(pieces) == 10:
                after_ten(answer.headers["x-swarm-route"])
    return "".join(pieces), finish


def second_hop(swarm: SwarmProcesses, route: str) -> NodeProcess:
    identity = next(hop.split("=")[0].strip() for hop in route.split(",") if "15:30" in hop)
    name = next(m["name"] for m in members(swarm.nodes[0]) if m["node"].startswith(identity))
    return next(node for node in swarm.nodes if node.name == name)


def ended(node: NodeProcess) -> bool:
    return node.process is not None and node.process.poll() is not None


def test_1_a_hop_told_to_stop_moves_its_answer_away_and_leaves(swarm: SwarmProcesses):
    door, told = swarm.nodes[0], []

    def stop(route: str) -> None:
        told.append(second_hop(swarm, route))
        told[0].process.send_signal(signal.SIGTERM)

    text, finish = ask(door, stop)
    assert text == reference(QUESTION, TOKENS, ignore_eos=True)
    assert finish == ["length"]
    wait_for("the node to leave", lambda: ended(told[0]), seconds=30)
    assert told[0].process.returncode == 0
    assert "Draining" in told[0].log
    assert "an answer goes on" not in door.log, "it moved; it did not have to recover"
    wait_for("it to be gone from the view", lambda: len(members(door)) == 2)


def test_2_a_door_told_to_stop_ends_its_answers_and_refuses_new_ones(swarm: SwarmProcesses):
    door = swarm.nodes[0]
    refusals: list[httpx.Response] = []

    def stop(_: str) -> None:
        door.process.send_signal(signal.SIGTERM)
        wait_for("the door to drain", lambda: "Draining" in door.log)
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
        refusals.append(httpx.post(f"{door.url}/v1/chat/completions", json=body, timeout=30))

    text, finish = ask(door, stop)
    assert text == reference(QUESTION, TOKENS, ignore_eos=True)
    assert finish == ["length"]
    assert refusals[0].status_code == 503
    assert int(refusals[0].headers["retry-after"]) >= 1
    assert "leaving" in refusals[0].json()["error"]["message"]
    wait_for("the door to leave", lambda: ended(door), seconds=30)
    assert door.process.returncode == 0


def test_3_a_second_signal_ends_a_node_at_once(swarm: SwarmProcesses):
    door = swarm.nodes[0]
    door.start()
    swarm.wait_servable([door])

    def stop(_: str) -> None:
        door.process.send_signal(signal.SIGTERM)
        wait_for("the door to drain", lambda: door.log.count("Draining") == 2)
        door.process.send_signal(signal.SIGTERM)

    with pytest.raises(Exception, match=r"."):
        ask(door, stop, tokens=4000)
    wait_for("the door to end", lambda: ended(door), seconds=20)
