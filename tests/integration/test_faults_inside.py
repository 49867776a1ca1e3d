"""A node killed while something of an answer is held back or open: what was sent before and after fits together.

Each answer is asked twice, undisturbed and with a kill in its middle; both must be the same to the last delta's text,
finish reason and usage. The killed node is started again, so that the swarm is whole for the next test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.support.swarm_process import MODEL, NodeProcess, SwarmProcesses, swarm_of, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

QUESTION = "List two animals that can fly, and say why each of them can."


@dataclass
class Answer:
    texts: dict[int, str] = field(default_factory=dict)
    finishes: list[tuple[int, str]] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    ended: int = 0


@pytest.fixture(scope="module")
def swarm() -> Iterator[SwarmProcesses]:
    with swarm_of(["0:15", "15:30", "15:30"], doors=[True, False, False]) as running:
        yield running


def members(door: NodeProcess) -> list[dict[str, Any]]:
    return [member for member in door.get("/swarm/state")[1]["members"] if member["routable"]]


def whole(swarm: SwarmProcesses) -> None:
    wait_for("three members with spans", lambda: sum(len(m["spans"]) for m in members(swarm.nodes[0])) == 3)


def holder(swarm: SwarmProcesses, route: str) -> NodeProcess:
    """The process that computes the last layers on a route: one of two that hold them."""
    identity = route.rsplit(",", maxsplit=1)[-1].split("=", maxsplit=1)[0].strip()
    name = next(m["name"] for m in members(swarm.nodes[0]) if m["node"].startswith(identity))
    return next(node for node in swarm.nodes if node.name == name)


def ask(swarm: SwarmProcesses, when: Callable[[Answer], bool] | None = None, **more: Any) -> Answer:
    """Stream an answer; as soon as ``when`` says so, the node behind the door is killed."""
    whole(swarm)
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 60,
        **more,
    }
    found, killed = Answer(), None
    url = f"{swarm.nodes[0].url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=120) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                found.ended += 1
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            found.usage = event.get("usage") or found.usage
            for choice in event["choices"]:
                index = choice["index"]
                found.texts[index] = found.texts.get(index, "") + (choice["delta"].get("content") or "")
                if choice["finish_reason"]:
                    found.finishes.append((index, choice["finish_reason"]))
            if killed is None and when is not None and when(found):
                killed = holder(swarm, answer.headers["x-swarm-route"])
                killed.kill()
    if when is not None:
        assert killed is not None, f"nothing was killed: {found.texts}"
        killed.start()
    return found


def same(disturbed: Answer, undisturbed: Answer) -> None:
    assert disturbed.texts == undisturbed.texts
    assert sorted(disturbed.finishes) == sorted(undisturbed.finishes)
    assert disturbed.ended == undisturbed.ended == 1
    assert disturbed.usage is not None
    assert undisturbed.usage is not None
    for count in ("prompt_tokens", "completion_tokens"):
        assert disturbed.usage[count] == undisturbed.usage[count]


def test_inside_an_open_grammar_and_between_the_bytes_of_a_character(swarm: SwarmProcesses):
    emojis = "😀🎉🚀🧩🦋🪐🌋🎻"
    schema = {
        "type": "object",
        "properties": {"signs": {"enum": [emojis]}, "why": {"type": "string", "maxLength": 40}},
        "required": ["signs", "why"],
        "additionalProperties": False,
    }
    wishes = {
        "temperature": 0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "signs", "schema": schema}},
        "max_completion_tokens": 120,
    }
    undisturbed = ask(swarm, **wishes)
    disturbed = ask(swarm, lambda so_far: emojis[2] in so_far.texts.get(0, ""), **wishes)
    same(disturbed, undisturbed)
    assert json.loads(disturbed.texts[0])["signs"] == emojis


def test_inside_a_stop_string_that_is_held_back(swarm: SwarmProcesses):
    text = ask(swarm, temperature=0).texts[0]
    stop = text[60:90]
    undisturbed = ask(swarm, temperature=0, stop=[stop])
    assert undisturbed.texts[0] == text[: text.index(stop)]
    disturbed = ask(
        swarm, lambda so_far: len(so_far.texts.get(0, "")) >= text.index(stop) - 4, temperature=0, stop=[stop]
    )
    same(disturbed, undisturbed)


def test_with_two_choices_under_way_that_draw_by_one_seed(swarm: SwarmProcesses):
    wishes = {"temperature": 1.0, "seed": 11, "n": 2, "ignore_eos": True}
    undisturbed = ask(swarm, **wishes)
    disturbed = ask(swarm, lambda so_far: len(so_far.texts.get(1, "")) > 20, **wishes)
    assert undisturbed.texts[0] != undisturbed.texts[1]
    same(disturbed, undisturbed)
