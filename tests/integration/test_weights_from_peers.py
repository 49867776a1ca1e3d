"""Real processes, one of which has a model: the others get what they need of it from each other, without a hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from swarm.protocol.invite import Invite
from tests.support.speaking_bytes import greedy, write_byte_model
from tests.support.swarm_process import NodeProcess, SwarmProcesses, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

NAME = "org/tiny"
QUESTION = "What is the capital of France?"
TOKENS = 12
MIB = 1024 * 1024


def add_machine(
    swarm: SwarmProcesses, layers: str, *, api: bool, model: bool, extra: tuple[str, ...] = ()
) -> NodeProcess:
    """Add a node with a disk of its own, and no hub to ask."""
    node = swarm.add(layers, api=api, start=False, name_model=model, extra=extra)
    home = swarm.folder / node.name / "home"
    node.environment |= {"SWARM_HOME": str(home), "HF_HOME": str(home / "hub"), "HF_HUB_OFFLINE": "1"}
    return node


def home_of(swarm: SwarmProcesses, node: NodeProcess) -> Path:
    return swarm.folder / node.name / "home" / "models" / "org" / "tiny"


def answer(node: NodeProcess, model: str = NAME) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_completion_tokens": TOKENS,
    }
    reply = httpx.post(f"{node.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["message"]["content"])


def fetched(node: NodeProcess) -> int:
    return int(node.get("/swarm/state")[1]["weights"]["bytes_received"])


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmProcesses]:
    """One machine with the model and its first layers; two that were told nothing and serve the rest."""
    swarm = SwarmProcesses(tmp_path_factory.mktemp("swarm"), model=NAME)
    try:
        first = add_machine(swarm, "0:2", api=True, model=True)
        write_byte_model(home_of(swarm, first))
        first.start()
        wait_for("the first node's API", lambda: first.check() or first.get("/swarm/state")[0] == 200)
        wait_for("the first layers", lambda: first.check() or "Ready: layers 0:2" in first.log)
        for layers in ("2:4", "4:6"):
            add_machine(swarm, layers, api=False, model=False).start()
        swarm.wait_servable([first])
        yield swarm
    finally:
        swarm.stop()


@pytest.fixture(scope="module")
def expected(swarm: SwarmProcesses) -> str:
    return greedy(home_of(swarm, swarm.nodes[0]), QUESTION, TOKENS)


def test_machines_without_the_model_serve_spans_of_it(swarm: SwarmProcesses, expected: str) -> None:
    first, second, third = swarm.nodes[:3]
    assert answer(first) == expected
    assert "Ready: layers 4:6" in third.log
    whole = (home_of(swarm, first) / "model.safetensors").stat().st_size
    for node in (second, third):
        held = home_of(swarm, node) / "model.safetensors.partial"
        assert held.stat().st_size == whole
        if hasattr(held.stat(), "st_blocks"):
            assert held.stat().st_blocks * 512 < whole * 2 / 3


def pulled(home: Path, *arguments: str, key: str = "") -> dict[str, Any]:
    """Run ``swarm models pull`` as a machine with this disk would, and return what it printed."""
    own = {"SWARM_HOME": str(home), "HF_HOME": str(home / "hub"), "HF_HUB_OFFLINE": "1", "SWARM_KEY": key}
    command = [sys.executable, "-m", "swarm", "models", "pull", NAME, *arguments, "--json"]
    ended = subprocess.run(
        command, env={**os.environ, **own}, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout[ended.stdout.index("{") :])
    return found


def test_more_of_a_model_is_pulled_from_members_through_the_node_that_runs(swarm: SwarmProcesses) -> None:
    second = swarm.nodes[1]
    home = swarm.folder / second.name / "home"
    got = pulled(home, "--layers", "4:6", "--no-ends", "--state", str(second.folder / "state"))
    assert got["layers_here"] == ["2:6"], "beside what the node had"


def test_a_machine_that_runs_no_node_pulls_from_members_as_one_of_them(swarm: SwarmProcesses) -> None:
    home = swarm.folder / "puller"
    first = swarm.nodes[0]
    leads = ("--bootstrap", f"127.0.0.1:{first.listen}", "--state", str(home / "state"))
    got = pulled(home, "--layers", "0:2", *leads, key=swarm.key)
    assert (got["layers_here"], got["ends_here"]) == (["0:2"], True)
    state = first.get("/swarm/state")[1]
    assert not [one for one in state["members"] if one["name"].startswith("pull-") and one["routable"]]


def invite_of(node: NodeProcess) -> str:
    command = [sys.executable, "-m", "swarm", "invite", "--state", str(node.folder / "state")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_an_invite_proves_a_part_of_a_model_and_is_passed_on(swarm: SwarmProcesses) -> None:
    invite = invite_of(swarm.nodes[0])
    brought = Invite.parse(invite).chunk_roots
    joined = add_machine(swarm, "2:4", api=False, model=False, extra=(invite,))
    joined.environment["SWARM_KEY"] = ""
    joined.start()
    wait_for("the layers of who was invited", lambda: joined.check() or "Ready: layers 2:4" in joined.log)
    assert (home_of(swarm, joined) / "model.safetensors.partial").is_file()
    assert len(brought) == 1
    assert Invite.parse(invite_of(joined)).chunk_roots == brought
    assert Invite.parse(invite_of(swarm.nodes[1])).chunk_roots == {}, "it has a part, on a member's word"
    joined.stop()


def test_a_machine_without_layers_is_a_front_door(swarm: SwarmProcesses, expected: str) -> None:
    door = add_machine(swarm, "none", api=True, model=False)
    door.start()
    wait_for("the door", door.servable)
    assert fetched(door) == 0
    assert answer(door) == expected
    whole = (home_of(swarm, swarm.nodes[0]) / "model.safetensors").stat().st_size
    assert 0 < fetched(door) < whole / 2
    door.stop()


def test_after_a_kill_only_what_is_missing_travels(swarm: SwarmProcesses, expected: str) -> None:
    settings = swarm.folder / "slow.toml"
    settings.write_text('[weights]\nrate_bytes = "4MiB"\n', "utf-8")
    node = add_machine(swarm, "0:6", api=True, model=True, extra=("--config", str(settings)))
    node.start()
    before = wait_for("8 MiB of weights", lambda: node.check() or _at_least(node, 8 * MIB))
    node.kill()
    whole = sum(path.stat().st_size for path in home_of(swarm, swarm.nodes[0]).iterdir())
    assert before < whole - 4 * MIB, "it was killed too late to show anything"
    settings.write_text("", "utf-8")
    node.start()
    wait_for("all layers", lambda: node.check() or "Ready: layers 0:6" in node.log)
    after = fetched(node)
    # What was under way at the kill may come twice: a few chunks at most.
    assert 0 < after <= whole - before + 4 * MIB
    assert not list(home_of(swarm, node).glob("*.partial"))
    assert answer(node) == expected
    node.stop()


def test_one_node_holds_two_models_and_every_door_serves_both(swarm: SwarmProcesses, expected: str) -> None:
    first = swarm.nodes[0]
    settings = swarm.folder / "both.toml"
    tables = [f'[[models]]\nname = "{name}"\nlayers = "0:6"\n' for name in (NAME, "org/other")]
    settings.write_text("".join(tables), "utf-8")
    node = add_machine(swarm, "auto", api=True, model=False, extra=("--config", str(settings)))
    other = write_byte_model(home_of(swarm, node).with_name("other"), seed=1)
    node.start()
    wait_for("both models", lambda: node.check() or node.log.count("Ready: layers 0:6") == 2)
    wait_for("news of it", lambda: len(first.get("/v1/models")[1]["data"]) == 2)
    assert {model["id"] for model in first.get("/v1/models")[1]["data"]} == {NAME, "org/other"}
    theirs = greedy(other, QUESTION, TOKENS)
    assert theirs != expected
    assert answer(node) == expected
    for door in (node, first):
        assert answer(door, "org/other") == theirs
    node.stop()


def _at_least(node: NodeProcess, octets: int) -> int:
    status, state = node.get("/swarm/state")
    return (
        state["weights"]["bytes_received"]
        if status == 200 and state["weights"]["bytes_received"] >= octets
        else 0
    )
