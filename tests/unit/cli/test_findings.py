"""What the doctor says of a state, and that a redacted report names nobody."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.cli.findings import of_state, redacted

A, B, C = "a" * 32, "b" * 32, "c" * 32


def member(node: str, **changes: Any) -> dict[str, Any]:
    return {
        "node": node,
        "name": f"machine-{node[0]}",
        "state": "ready",
        "health": "alive",
        "routable": True,
        "spans": [{"model": "org/m", "layers": "0:4"}],
        "addresses": ["192.168.7.9:7410"],
        "links": [],
    } | changes


def state(*members: dict[str, Any], **changes: Any) -> dict[str, Any]:
    whole = {"name": "org/m", "layers": 8, "servable": True, "missing": [], "problem": ""}
    return {"node": A, "members": list(members), "models": [whole], "engine": {}} | changes


def broken(**changes: Any) -> dict[str, Any]:
    return {
        "name": "org/m",
        "layers": 8,
        "servable": False,
        "missing": ["4:8"],
        "problem": "",
    } | changes


def test_a_healthy_swarm_needs_no_remedy() -> None:
    found = of_state(state(member(A), member(B)))
    assert {finding.level for finding in found} == {"ok"}
    assert not any(finding.remedy for finding in found)


def test_a_hole_names_the_layers_who_had_them_and_the_command_that_mends_it() -> None:
    lost = member(B, health="dead", spans=[{"model": "org/m", "layers": "4:8"}])
    (finding,) = [f for f in of_state(state(member(A), lost, models=[broken()])) if f.level == "fail"]
    assert "4:8" in finding.text
    assert "machine-b" in finding.text
    assert "join --bootstrap 192.168.7.9:7410 --model org/m --layers 4:8" in finding.remedy


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        (state(member(A), models=[]), "no model"),
        (state(member(A), models=[broken(missing=[], problem="no tokenizer")]), "no tokenizer"),
        (state(member(A), member(B, health="suspect")), "does not answer"),
        (state(member(A), member(B, routable=False)), "no new sessions"),
        (state(member(A, links=[{"node_prefix": "b" * 8, "unreachable": True}]), member(B)), "can't reach"),
        (state(member(A), engine={"kv_budget_bytes": 100, "kv_used_bytes": 99, "kv_kept_bytes": 0}), "full"),
    ],
)
def test_each_trouble_is_named_with_a_next_step(changed: dict[str, Any], word: str) -> None:
    (finding,) = [f for f in of_state(changed) if f.level != "ok"]
    assert word in finding.text
    assert finding.remedy


def test_kept_prefixes_and_cut_links_to_the_dead_are_no_trouble() -> None:
    kept = {"kv_budget_bytes": 100, "kv_used_bytes": 99, "kv_kept_bytes": 60}
    dead = member(B, health="dead")
    cut = member(A, links=[{"node_prefix": "b" * 8, "unreachable": True}])
    assert {f.level for f in of_state(state(cut, dead, engine=kept))} == {"ok"}


def test_a_redacted_report_names_nobody_and_stays_readable() -> None:
    lines = [
        "node aaaaaaaa (machine-a) at 192.168.7.9:7410 and [2001:db8::1]:7410",
        "machine-a again, /home/ada/x, ada, adamant",
    ]
    secrets = [("name", "machine-a"), ("id", "aaaaaaaa"), ("user", "ada"), ("home", "/home/ada")]
    safe = redacted(lines, secrets)
    assert safe[0] == "node id-1 (name-1) at address-1:7410 and address-2:7410"
    assert safe[1] == "name-1 again, home-1/x, user-1, adamant"
