"""Three processes, none of which holds the model alone, asked by real clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
from itertools import pairwise

import httpx
import psutil
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.support.reference import reference
from tests.support.swarm_process import MODEL, NodeProcess, SwarmProcesses, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
QUESTIONS = (
    "What is the capital of France?",
    "Name three colours.",
    "Write one sentence about the sea.",
    "What is 2 + 2?",
    "Who wrote Hamlet?",
    "List two animals that can fly, and say why each of them can.",
    "Say hello in Spanish.",
    "What is water made of?",
)


def client(node: NodeProcess) -> OpenAI:
    return OpenAI(base_url=f"{node.url}/v1", api_key="unused", max_retries=0)


@pytest.mark.parametrize("door", range(3))
def test_every_front_door_gives_the_models_own_answer(three_nodes: SwarmProcesses, door: int):
    answer = client(three_nodes.nodes[door]).chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=32
    )
    assert answer.choices[0].message.content == reference(QUESTIONS[0], 32)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("door", range(3))
def test_a_streamed_answer_is_the_same_text(three_nodes: SwarmProcesses, door: int):
    stream = client(three_nodes.nodes[door]).chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=32, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == reference(QUESTIONS[0], 32)
    assert len([piece for piece in pieces if piece]) > 3


@pytest.mark.parametrize("door", range(3))
async def test_an_async_stream_is_the_same_text(three_nodes: SwarmProcesses, door: int):
    async with AsyncOpenAI(base_url=f"{three_nodes.nodes[door].url}/v1", api_key="x", max_retries=0) as api:
        stream = await api.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=32, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == reference(QUESTIONS[0], 32)


@pytest.mark.parametrize("door", range(3))
def test_curl_streams_server_sent_events(three_nodes: SwarmProcesses, door: int):
    body = json.dumps(
        {"model": MODEL, "messages": QUESTION, "temperature": 0, "stream": True, "max_tokens": 32}
    )
    url = f"{three_nodes.nodes[door].url}/v1/chat/completions"
    command = ["curl", "-sN", "-i", url, "-H", "Content-Type: application/json", "-d", body]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    headers, _, events = output.partition("\n\n")
    lines = [line[6:] for line in events.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == reference(QUESTIONS[0], 32)
    assert "x-swarm-route" in headers.lower()
    assert "x-request-id" in headers.lower()


async def test_eight_requests_at_once_give_the_texts_they_give_alone(three_nodes: SwarmProcesses):
    async def ask(number: int, question: str) -> str:
        node = three_nodes.nodes[number % 3]
        async with AsyncOpenAI(base_url=f"{node.url}/v1", api_key="unused", max_retries=0) as api:
            answer = await api.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": question}],
                temperature=0,
                max_completion_tokens=24,
            )
            return answer.choices[0].message.content or ""

    answers = await asyncio.gather(*(ask(number, question) for number, question in enumerate(QUESTIONS)))
    assert answers == [reference(question, 24) for question in QUESTIONS]


def test_a_seed_repeats_an_answer_on_every_front_door(three_nodes: SwarmProcesses):
    def ask(node: NodeProcess, seed: int) -> str:
        answer = client(node).chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=1.5, seed=seed, max_completion_tokens=16
        )
        return answer.choices[0].message.content or ""

    assert len({ask(node, 7) for node in three_nodes.nodes}) == 1
    assert len({ask(three_nodes.nodes[0], seed) for seed in range(1, 6)}) > 1


def test_the_route_covers_every_layer_once(three_nodes: SwarmProcesses):
    answer = client(three_nodes.nodes[2]).chat.completions.with_raw_response.create(
        model=MODEL, messages=QUESTION, max_completion_tokens=2
    )
    spans = [hop.strip().split("=")[1].split(";")[0] for hop in answer.headers["x-swarm-route"].split(",")]
    edges = [tuple(int(edge) for edge in span.split(":")) for span in spans]
    assert edges[0][0] == 0
    assert edges[-1][1] == 30
    assert all(left[1] == right[0] for left, right in pairwise(edges))


def test_every_node_sees_every_member_and_span(three_nodes: SwarmProcesses):
    for node in three_nodes.nodes:
        status, state = node.get("/swarm/state")
        assert status == 200
        spans = sorted(span["layers"] for member in state["members"] for span in member["spans"])
        assert spans == ["0:10", "10:20", "20:30"]
        assert len(live_members(node)) == 3


def test_models_are_listed_by_their_hugging_face_id(three_nodes: SwarmProcesses):
    listed = client(three_nodes.nodes[0]).models.list()
    assert [model.id for model in listed] == [MODEL]
    assert client(three_nodes.nodes[0]).models.retrieve(MODEL).id == MODEL


def test_ended_answers_leave_no_session_behind(three_nodes: SwarmProcesses):
    def idle() -> bool:
        states = [node.get("/swarm/state")[1] for node in three_nodes.nodes]
        return all(state["engine"]["hop_sessions"] == 0 and not state["sessions"] for state in states)

    with client(three_nodes.nodes[0]).chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_completion_tokens=500,
        stream=True,
        extra_body={"ignore_eos": True},
    ) as stream:
        next(iter(stream))
    wait_for("the hops to free what the client left behind", idle, seconds=30)


def test_a_node_keeps_its_state_private(three_nodes: SwarmProcesses):
    for node in three_nodes.nodes:
        secrets = [path for path in (node.folder / "state").rglob("*") if path.is_file()]
        assert secrets
        assert all(path.stat().st_mode & 0o077 == 0 for path in secrets)
        assert three_nodes.key not in node.log


def test_memory_grows_with_the_span_and_not_with_the_model(three_nodes: SwarmProcesses):
    """Two nodes without doors join for this: the one with 12 layers holds 11 layers more than the one with 1."""
    small, large = (three_nodes.add(span, api=False) for span in ("0:1", "0:12"))
    door = three_nodes.nodes[0]
    layer = 14_160_384  # bytes of one layer's weights in float32

    def ready() -> bool:
        members = door.get("/swarm/state")[1]["members"]
        return {small.name, large.name} <= {member["name"] for member in members if member["spans"]}

    def grown_by_the_layers() -> bool:
        """Loading takes memory for a moment and gives it back: what counts is where the two come to rest."""
        grown = psutil.Process(large.pid).memory_info().rss - psutil.Process(small.pid).memory_info().rss
        return 0.7 * 11 * layer < grown < 2.2 * 11 * layer

    try:
        wait_for("both nodes to hold their layers", ready)
        wait_for("the larger span to take the memory of 11 layers more", grown_by_the_layers, seconds=30)
    finally:
        for node in (small, large):
            node.stop()
            three_nodes.nodes.remove(node)
    wait_for("the two to be gone", lambda: len(live_members(door)) == 3)


def live_members(door: NodeProcess) -> list[str]:
    members = door.get("/swarm/state")[1]["members"]
    return [member["name"] for member in members if member["health"] == "alive"]


def test_a_node_with_another_secret_is_refused_in_one_clear_line_on_both_sides(three_nodes: SwarmProcesses):
    stranger = SwarmProcesses(three_nodes.folder / "stranger", nodes=[three_nodes.nodes[0]])
    node = stranger.add("none", api=False, extra=["--bootstrap", f"127.0.0.1:{three_nodes.nodes[0].listen}"])
    try:
        wait_for("the stranger to be told", lambda: "secret" in node.log.lower(), seconds=60)
        wait_for("the swarm to say so", lambda: "secret" in three_nodes.nodes[0].log.lower(), seconds=60)
    finally:
        node.stop()
    refusals = [line for line in three_nodes.nodes[0].log.splitlines() if "secret" in line.lower()]
    assert 1 <= len(refusals) <= 3
    assert stranger.key not in node.log
    assert len(live_members(three_nodes.nodes[0])) == 3


def test_plain_http_and_garbage_on_the_node_port_do_no_harm(three_nodes: SwarmProcesses):
    for junk in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(range(256)) * 64):
        with socket.create_connection(("127.0.0.1", three_nodes.nodes[0].listen), timeout=10) as raw:
            raw.sendall(junk)
            with contextlib.suppress(ConnectionResetError):
                while raw.recv(4096):
                    pass
    answer = client(three_nodes.nodes[0]).chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=32
    )
    assert answer.choices[0].message.content == reference(QUESTIONS[0], 32)


def test_the_front_door_of_a_loopback_node_is_closed_to_web_pages_of_others(three_nodes: SwarmProcesses):
    url = f"{three_nodes.nodes[0].url}/v1/chat/completions"
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 2}
    assert httpx.post(url, json=body, headers={"Origin": "https://example.org"}).status_code == 403
    assert httpx.post(url, json=body, headers={"Host": "example.org"}).status_code == 421
    assert httpx.post(url, data={"model": MODEL}).status_code == 415


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ("{", 400, None),
        ({"model": MODEL, "messages": []}, 400, "messages"),
        ({"model": MODEL, "messages": "hi"}, 400, "messages"),
        ({"model": MODEL, "messages": QUESTION, "temperature": "hot"}, 400, "temperature"),
        ({"model": "nobody/nothing", "messages": QUESTION}, 404, "model"),
        ({"model": MODEL, "messages": [{"role": "user", "content": "word " * 9000}]}, 400, "messages"),
    ],
)
def test_bad_requests_get_openais_error_object(three_nodes: SwarmProcesses, body, status, param):
    content = body if isinstance(body, str) else json.dumps(body)
    answer = httpx.post(
        f"{three_nodes.nodes[0].url}/v1/chat/completions",
        content=content,
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
