"""The front door before the real model on three nodes: what only real logits can show."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.reference import prompt_logprobs
from tests.support.swarm_process import MODEL, NodeProcess, SwarmProcesses

pytestmark = [pytest.mark.real_model, pytest.mark.processes, pytest.mark.timeout(300)]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "degrees": {"type": "integer", "minimum": -50, "maximum": 50},
        "sky": {"enum": ["clear", "cloudy"]},
    },
    "required": ["city", "degrees", "sky"],
    "additionalProperties": False,
}
WEATHER: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture
def client(three_nodes: SwarmProcesses) -> openai.OpenAI:
    return openai.OpenAI(base_url=three_nodes.nodes[0].url + "/v1", api_key="k", max_retries=0, timeout=120)


def test_a_json_schema_answer_always_validates(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
    answers = client.chat.completions.create(
        model=MODEL, messages=WEATHER, response_format=form, n=4, seed=1, max_tokens=100
    )
    for choice in answers.choices:
        assert choice.finish_reason == "stop"
        answer = json.loads(choice.message.content or "")
        assert list(answer) == ["city", "degrees", "sky"]
        assert len(answer["city"]) <= 20
        assert -50 <= answer["degrees"] <= 50
        assert answer["sky"] in ("clear", "cloudy")


def test_a_required_call_is_made_by_a_model_that_knows_no_tools(client: openai.OpenAI) -> None:
    tools: list[Any] = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
    answer = client.chat.completions.create(
        model=MODEL, messages=WEATHER, tools=tools, tool_choice="required", max_tokens=100
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.type == "function"
    assert set(json.loads(call.function.arguments)) == {"city", "degrees", "sky"}


def test_bytes_of_the_logprobs_join_to_the_text(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Write three emoji."}]
    answer = client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, max_tokens=12, logprobs=True, top_logprobs=3
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert bytes(byte for token in tokens for byte in token.bytes or ()).decode() == choice.message.content
    for token in tokens:
        assert token.logprob == token.top_logprobs[0].logprob
        assert token.top_logprobs == sorted(token.top_logprobs, key=lambda top: -top.logprob)


def test_seeded_choices_are_the_same_again_and_on_every_door(
    client: openai.OpenAI, three_nodes: SwarmProcesses
) -> None:
    def texts(asked: openai.OpenAI) -> list[str | None]:
        answer = asked.chat.completions.create(model=MODEL, messages=WEATHER, n=3, seed=5, max_tokens=12)
        return [choice.message.content for choice in answer.choices]

    other = openai.OpenAI(base_url=three_nodes.nodes[2].url + "/v1", api_key="k", max_retries=0, timeout=120)
    first = texts(client)
    assert len(set(first)) == 3
    assert texts(client) == first
    assert texts(other) == first


def test_both_text_apis_say_the_same_greedily(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(model=MODEL, messages=WEATHER, temperature=0, max_tokens=16)
    response = client.responses.create(
        model=MODEL, input="What is the weather in Paris?", temperature=0, max_output_tokens=16
    )
    assert response.output_text == chat.choices[0].message.content
    assert response.status == "incomplete"


def test_usage_names_the_hops_that_computed_and_their_times(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=WEATHER, max_tokens=4, extra_body={"swarm": {"route": True}}
    )
    assert answer.usage is not None
    route = answer.usage.model_dump()["swarm"]["route"]
    assert [(hop["name"], hop["layers"]) for hop in route] == [
        ("node0", "0:10"),
        ("node1", "10:20"),
        ("node2", "20:30"),
    ]
    assert all(hop["compute_ms"] > 0 and hop["queue_ms"] >= 0 for hop in route)


@pytest.mark.parametrize(
    ("swarm", "status"),
    [
        ({"trust": ["node1", "node2"]}, 200),
        ({"trust": ["node1"]}, 503),
        ({"trust": ["rack"]}, 200),
        ({"trust": ["desk"]}, 503),
        ({"max_hops": 3}, 200),
        ({"max_hops": 2}, 503),
    ],
)
def test_a_path_uses_only_trusted_nodes_and_not_too_many(
    three_nodes: SwarmProcesses, swarm: dict[str, Any], status: int
) -> None:
    body = {"model": MODEL, "messages": WEATHER, "max_tokens": 1, "swarm": swarm}
    response = httpx.post(three_nodes.nodes[0].url + "/v1/chat/completions", json=body, timeout=120)
    assert response.status_code == status, response.text


@pytest.mark.parametrize("text", ["The capital of France is Paris.", "One, two, three. " * 120])
@pytest.mark.parametrize("max_tokens", [0, 1])
def test_an_echoed_prompt_has_the_logprobs_of_a_forward_pass(
    client: openai.OpenAI, text: str, max_tokens: int
) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=text, echo=True, logprobs=1, max_tokens=max_tokens, temperature=0
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    tokens, values = choice.logprobs.tokens or [], choice.logprobs.token_logprobs or []
    expected = prompt_logprobs(text)
    assert "".join(tokens) == choice.text
    assert len(tokens) == len(expected) + 1 + max_tokens
    assert values[0] is None
    assert values[1 : len(expected) + 1] == pytest.approx(expected, abs=1e-4)
    assert [choice.text[at] for at in choice.logprobs.text_offset or ()] == [token[0] for token in tokens]


def test_an_answer_over_three_nodes_is_seen_in_metrics_log_and_timing(three_nodes: SwarmProcesses) -> None:
    door, *hops = three_nodes.nodes
    body = {"model": MODEL, "messages": WEATHER, "max_tokens": 4}
    answer = httpx.post(door.url + "/v1/chat/completions", json=body, timeout=120)
    timing = answer.headers["server-timing"]
    assert [f"hop{at};" in timing for at in range(4)] == [True, True, True, False]
    found = metrics_of(door)
    nodes = {labels["node"] for name, labels, _ in found if name == "swarm_hop_compute_seconds_count"}
    assert nodes == {hop.split("=")[0] for hop in answer.headers["x-swarm-route"].split(", ")}
    value = {(name, *labels.values()): number for name, labels, number in found}
    assert value["gen_ai_server_time_to_first_token_seconds_count", "chat", "swarm", MODEL] >= 1
    assert value["swarm_link_sent_bytes_total", "gossip"] > 0
    assert value["swarm_link_sent_bytes_total", "steps"] > 0
    assert value["swarm_members", "alive"] == 3
    assert value["swarm_missing_layers", MODEL] == 0
    assert (
        len([labels for name, labels, number in found if name == "swarm_link_rtt_seconds" and number > 0])
        == 2
    )
    for hop in hops:
        assert {name: number for name, _, number in metrics_of(hop)}["swarm_step_rows_count"] >= 4
    lines = [line for line in door.log.splitlines() if answer.headers["x-request-id"] in line]
    assert len(lines) == 1
    assert "completion_tokens=4" in lines[0]
    assert "Paris" not in lines[0]


def metrics_of(node: NodeProcess) -> list[tuple[str, dict[str, str], float]]:
    text = httpx.get(node.url + "/metrics", timeout=30).text
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
