"""Nodes that are told how much memory they may use, and not which layers to hold.

This swarm is its own: a node of it is killed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from swarm.models.footprint import Footprint, footprint_of
from swarm.models.memory import Memory, needed_bytes
from swarm.models.store import LocalModel, ModelStore
from swarm.types import LayerSpan, missing_spans
from tests.support.models import random_model
from tests.support.streams import say
from tests.support.swarm_process import MODEL, NodeProcess, SwarmProcesses, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.real_model, pytest.mark.timeout(300)]

LAYERS = 6
TOKENS = 500


def memory_for(model: Footprint, layers: int, *, door: bool) -> int:
    """Return a --memory with which exactly so many layers fit."""
    least = needed_bytes(Memory(0, door=door), model, [LayerSpan(0, layers)])
    return least + model.layer_bytes[0] // 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A small random model with the real one's tokenizer, in a folder."""
    real = ModelStore().find(MODEL)
    assert real is not None
    folder = tmp_path_factory.mktemp("models") / "random-llama"
    changes = {"vocab_size": real.spec.vocab_size, "max_position_embeddings": 4096, "rope_parameters": None}
    local = random_model("llama", changes, folder).local
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (real.folder / name).is_file():
            shutil.copy(real.folder / name, folder / name)
    return local


@pytest.fixture(scope="module")
def swarm(model: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmProcesses]:
    """A door and two more nodes, each with memory for half of the layers, all started at once."""
    running = SwarmProcesses(tmp_path_factory.mktemp("swarm"), model=str(model.folder))
    sizes = footprint_of(model.spec, model.manifest, "float32")
    try:
        for number in range(3):
            door = number == 0
            running.add("auto", api=door, extra=["--memory", str(memory_for(sizes, LAYERS // 2, door=door))])
        running.wait_servable()
        wait_for("three nodes to hold layers", lambda: len(holders(running)) == 3)
        # Who chose before the door had measured its head moves there later: that half is the slower one.
        wait_for("the door's layers to be held twice", lambda: _as_the_door(running), seconds=150)
        yield running
    finally:
        running.stop()


def _as_the_door(swarm: SwarmProcesses) -> list[NodeProcess]:
    """Return the nodes that hold the same layers as the door."""
    held = holders(swarm)
    return [node for node in swarm.nodes[1:] if held.get(node.name) == held[swarm.nodes[0].name]]


def holders(swarm: SwarmProcesses) -> dict[str, list[str]]:
    """Return the live members that hold layers, by name."""
    members = swarm.nodes[0].get("/swarm/state")[1]["members"]
    return {
        member["name"]: [span["layers"] for span in member["spans"]]
        for member in members
        if member["routable"] and member["spans"]
    }


def stream(door: NodeProcess, model: LocalModel) -> Iterator[str]:
    return say(door.url, model.id.name, TOKENS)


def test_nodes_with_memory_for_half_a_model_cover_it_between_them(swarm: SwarmProcesses) -> None:
    found = [LayerSpan.parse(span) for spans in holders(swarm).values() for span in spans]
    assert missing_spans(LAYERS, found) == ()
    assert all(len(span) <= LAYERS // 2 for span in found)
    for node in swarm.nodes:
        assert "Memory:" in node.log


def test_a_span_that_does_not_fit_is_refused_before_it_is_loaded_with_the_numbers(
    swarm: SwarmProcesses, model: LocalModel
) -> None:
    sizes = footprint_of(model.spec, model.manifest, "float32")
    node = swarm.add("0:5", api=False, extra=["--memory", str(memory_for(sizes, 2, door=False))])
    try:
        wait_for("the node to end", lambda: node.process is not None and node.process.poll() is not None)
    finally:
        node.stop()
        swarm.nodes.remove(node)
    assert "layers 0:5 of random-llama in float32 need" in node.log
    assert "--layers 0:2" in node.log
    assert "Loading" not in node.log


def test_a_running_swarm_is_planned_and_answers_are_held_against_what_was_predicted(
    swarm: SwarmProcesses, model: LocalModel
) -> None:
    door = swarm.nodes[0]
    asked = [sys.executable, "-m", "swarm", "plan", str(model.folder), "--api", str(door.api), "--json"]
    planned = json.loads(subprocess.run(asked, capture_output=True, check=True, timeout=120).stdout)
    route = [LayerSpan.parse(span) for span in planned["route"]]
    assert missing_spans(LAYERS, route) == ()
    assert planned["tokens_per_second"] > 0
    assert len(planned["machines"]) == 3
    assert "".join(stream(door, model))
    with urllib.request.urlopen(f"{door.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    for what in ("token", "first_token"):
        counts = [line for line in lines if line.startswith(f'swarm_prediction_ratio_count{{what="{what}"}}')]
        assert counts, what
        assert float(counts[0].split()[-1]) >= 1


def test_a_killed_nodes_layers_are_taken_by_another_while_a_stream_waits_for_them(
    swarm: SwarmProcesses, model: LocalModel
) -> None:
    door = swarm.nodes[0]
    undisturbed = "".join(stream(door, model))
    spare = _as_the_door(swarm)
    victim = next(node for node in swarm.nodes[1:] if node not in spare)
    begun = {node.name: len(node.log) for node in swarm.nodes}  # some moved when the swarm formed
    with ThreadPoolExecutor(1) as pool:
        pieces = stream(door, model)
        first = next(pieces)
        rest = pool.submit(lambda: "".join(pieces))
        victim.kill()
        assert first + rest.result(timeout=120) == undisturbed
    spans = [LayerSpan.parse(span) for held in holders(swarm).values() for span in held]
    assert missing_spans(LAYERS, spans) == ()
    assert victim.name not in holders(swarm)
    moved = [node for node in (door, *spare) if "Moving from" in node.log[begun[node.name] :]]
    assert len(moved) == 1, "one node moves to one hole, not two"
    (mover,) = moved
    wait_for("the old span to be dropped", lambda: "Dropped" in mover.log[begun[mover.name] :], seconds=60)
    assert next(stream(door, model)) == first


def test_nodes_stay_within_the_memory_they_were_given(swarm: SwarmProcesses, model: LocalModel) -> None:
    sizes = footprint_of(model.spec, model.manifest, "float32")
    for node in swarm.nodes:
        if node.process is not None and node.process.poll() is None:
            allowed = memory_for(sizes, LAYERS // 2, door=node.api is not None)
            assert psutil.Process(node.pid).memory_info().rss <= allowed
