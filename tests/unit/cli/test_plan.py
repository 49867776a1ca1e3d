"""``swarm plan`` as a person meets it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from swarm.cli import plan as plan_module
from swarm.cli.app import app
from swarm.cli.plan import parse_nodes, running_of
from swarm.errors import ConfigError
from swarm.routing.cost import HOP_SECONDS
from swarm.types import LayerSpan
from tests.support.model_folders import LAYERS, write_single

NODE, OTHER = "a" * 32, "b" * 32


def member(node: str, layers: str, **more: Any) -> dict[str, Any]:
    return {
        "node": node,
        "name": node[:1],
        "routable": True,
        "memory_bytes": 10**9,
        "spans": [{"model": "org/m", "digest": "0" * 64, "layers": layers, "of": 4, "dtype": "float32"}],
        "load": {
            "queued_rows": 0,
            "head_microseconds": 2000.0,
            "spans": [{"layers": layers, "microseconds_per_layer": 1500.0, "free_kv_tokens": 4096}],
        },
        "rtt_ms": None,
        "links": [],
    } | more


def state(*members: dict[str, Any]) -> dict[str, Any]:
    return {"node": NODE, "members": list(members), "models": [{"name": "org/m"}]}


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments])


def test_machines_are_read_by_memory_speed_and_name():
    assert parse_nodes("8GiB,big=16GiB@0.5") == [("node0", 8 << 30, 1.0), ("big", 16 << 30, 0.5)]


@pytest.mark.parametrize("text", ["", "8", "8GiB@0", "8 apples", "8GiB@x", "=8GiB"])
def test_what_is_no_machine_is_refused_with_an_example(text: str):
    with pytest.raises(ConfigError, match=r"--nodes: .*for example 8GiB,16GiB@0\.5"):
        parse_nodes(text)


def test_described_machines_are_planned_without_a_swarm(tmp_path):
    folder = write_single(tmp_path / "small")
    found = run(str(folder), "--nodes", "1GiB,100MiB", "--json")
    assert found.exit_code == 0, found.output
    values = json.loads(found.stdout)
    assert [one["span"] for one in values["machines"]] == [f"0:{LAYERS}", None]
    assert "memory" in values["machines"][1]["reason"]
    assert values["tokens_per_second"] > 0
    assert values["first_token_seconds"] > 0
    table = run(str(folder), "--nodes", "1GiB,100MiB")
    assert "tokens a second" in table.output
    assert "Bottleneck" in table.output


def test_a_running_swarms_state_is_planned(monkeypatch):
    seen = state(member(NODE, "0:2"), member(OTHER, "2:4", rtt_ms=3.0))
    monkeypatch.setattr(plan_module, "viewpoint", lambda api, key_file: lambda: seen)
    found = run("org/m", "--json")
    assert found.exit_code == 0, found.output
    values = json.loads(found.stdout)
    assert values["route"] == ["0:2", "2:4"]
    assert values["missing"] == []
    assert values["tokens_per_second"] == pytest.approx(
        1 / (4 * 0.0015 + 0.003 + 2 * HOP_SECONDS + 0.002), rel=0.01
    )


def test_members_that_are_not_routable_do_not_count():
    running = running_of(state(member(NODE, "0:2"), member(OTHER, "2:4", routable=False)), "org/m")
    assert [span.span for span in running.view.spans] == [LayerSpan(0, 2)]


def test_a_model_that_the_swarm_does_not_serve_is_an_error(monkeypatch):
    monkeypatch.setattr(plan_module, "viewpoint", lambda api, key_file: lambda: state(member(NODE, "0:2")))
    found = run("org/other")
    assert found.exit_code != 0
    assert "org/m" in str(found.exception)


def test_a_model_that_is_only_being_loaded_is_not_called_unknown(monkeypatch):
    seen = state(member(NODE, "0:2", routable=False))
    monkeypatch.setattr(plan_module, "viewpoint", lambda api, key_file: lambda: seen)
    found = run("org/m")
    assert found.exit_code != 0
    assert "no member holds layers of org/m yet" in str(found.exception)
