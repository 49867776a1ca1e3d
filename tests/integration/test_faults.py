"""Processes killed under running and coming requests. This swarm is its own: it does not survive as it began."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from openai import OpenAI

from tests.support.reference import reference
from tests.support.swarm_process import MODEL, NodeProcess, SwarmProcesses, swarm_of, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

QUESTION = "List two animals that can fly, and say why each of them can."
TOKENS = 60
LONG_REQUEST = {
    "model": MODEL,
    "messages": [{"role": "user", "content": QUESTION}],
    "max_tokens": 4000,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def swarm() -> Iterator[SwarmProcesses]:
    """A front door with layers 0-14, and layers 15-29 twice."""
    with swarm_of(["0:15", "15:30", "15:30"], doors=[True, False, False]) as running:
        door = running.nodes[0]
        wait_for("three members with spans", lambda: len(spans(door)) == 3)
        yield running


def spans(door: NodeProcess) -> list[str]:
    _, state = door.get("/swarm/state")
    return [span["layers"] for member in state["members"] if member["routable"] for span in member["spans"]]


def api(door: NodeProcess) -> OpenAI:
    return OpenAI(base_url=f"{door.url}/v1", api_key="unused", max_retries=0)


def ask(door: NodeProcess) -> str:
    answer = api(door).chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_completion_tokens=TOKENS,
        extra_body={"ignore_eos": True},
    )
    return answer.choices[0].message.content or ""


def node_on_route(swarm: SwarmProcesses, route: str) -> NodeProcess:
    """The process that computes layers 15-29 on a route; the door's state says whose id that is."""
    identity = next(hop.split("=")[0].strip() for hop in route.split(",") if "15:30" in hop)
    _, state = swarm.nodes[0].get("/swarm/state")
    name = next(member["name"] for member in state["members"] if member["node"].startswith(identity))
    return next(node for node in swarm.nodes if node.name == name)


def test_1_a_node_killed_in_the_middle_of_an_answer_costs_no_token(swarm: SwarmProcesses):
    door = swarm.nodes[0]
    pieces: list[str] = []
    finish: list[str] = []
    with api(door).chat.completions.with_streaming_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_completion_tokens=TOKENS,
        stream=True,
        extra_body={"ignore_eos": True},
    ) as answer:
        route = answer.headers["x-swarm-route"]
        for chunk in answer.parse():
            pieces.append(chunk.choices[0].delta.content or "")
            finish += [chunk.choices[0].finish_reason] if chunk.choices[0].finish_reason else []
            if len(pieces) == 10:
                node_on_route(swarm, route).kill()
    assert "".join(pieces) == reference(QUESTION, TOKENS, ignore_eos=True)
    assert finish == ["length"]
    assert "swarm_failovers_total 1.0" in httpx.get(door.url + "/metrics").text


def test_2_a_killed_node_leaves_every_view(swarm: SwarmProcesses):
    wait_for("the killed node to be gone", lambda: sorted(spans(swarm.nodes[0])) == ["0:15", "15:30"])


def test_3_without_a_holder_requests_get_503_that_names_the_layers(swarm: SwarmProcesses):
    door = swarm.nodes[0]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx.post, f"{door.url}/v1/chat/completions", json=LONG_REQUEST, timeout=100)
        wait_for("the answer to run", lambda: door.get("/swarm/state")[1]["sessions"])
        for node in swarm.nodes[1:]:
            node.kill()
        ended = running.result()
    assert ended.status_code == 503
    assert "layers 15-29" in ended.json()["error"]["message"]

    def refused() -> openai.APIStatusError | None:
        try:
            ask(door)
        except openai.APIStatusError as exc:
            return exc
        return None

    error = wait_for("a refusal", refused)
    assert error.status_code == 503
    assert "layers 15-29" in error.message
    assert int(error.response.headers["retry-after"]) >= 1
    status, health = door.get("/health")
    assert status == 503
    assert "15:30" in str(health) or "15-29" in str(health)


def test_4_a_replacement_that_is_told_nothing_but_an_address_is_all_it_takes(swarm: SwarmProcesses):
    door = swarm.nodes[0]
    pids = [node.pid for node in swarm.nodes]
    newcomer = swarm.add("auto", api=False, name_model=False)
    swarm.wait_servable([door])
    assert "takes layers 15-29" in newcomer.log
    assert ask(door) == reference(QUESTION, TOKENS, ignore_eos=True)
    assert [node.pid for node in swarm.nodes[:-1]] == pids
