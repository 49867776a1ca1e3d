"""Which front door a command asks when none is named, and what it says when nobody answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarm.cli.app import main
from swarm.cli.door import Door, viewpoint
from swarm.errors import SwarmError
from swarm.node.control import GetState
from tests.support.node_state import node_state
from tests.support.swarm_process import free_port

NodeSays = Callable[[dict[str, Any] | None], None]


@pytest.fixture
def node_says(monkeypatch: pytest.MonkeyPatch) -> NodeSays:
    """Have a node with the usual state folder answer so; None: none runs."""

    def says(state: dict[str, Any] | None) -> None:
        def ask(folder: Path, request: GetState, seconds: float) -> dict[str, Any]:
            if state is None:
                raise SwarmError(f"no node runs with the state folder {folder}")
            return state

        monkeypatch.setattr("swarm.node.control.ask", ask)

    return says


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("192.168.1.20:8000", "http://192.168.1.20:8000"),
        ("0.0.0.0:8001", "http://127.0.0.1:8001"),
        ("[::]:8001", "http://[::1]:8001"),
    ],
)
def test_without_an_address_the_door_of_the_node_here_is_asked(
    node_says: NodeSays, listen: str, url: str
) -> None:
    node_says(node_state(door={"listen": listen, "keys": [], "problem": ""}))
    assert Door("", None).url == url
    assert Door("192.0.2.1:1", None).url == "http://192.0.2.1:1"


def test_a_door_that_nobody_named_and_nobody_opened_is_told_how_to_be_opened(
    node_says: NodeSays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarm.cli.door.USUAL_API", f"127.0.0.1:{free_port()}")
    node_says(None)
    with pytest.raises(SwarmError, match=r"no front door answers at .*; start a node that opens one"):
        Door("", None).get("/v1/models")
    node_says(node_state(door={"listen": "", "keys": [], "problem": ""}))
    with pytest.raises(SwarmError, match=r"the node here has no front door: `swarm door open` opens one"):
        Door("", None).get("/v1/models")
    with pytest.raises(SwarmError) as named:
        Door(f"127.0.0.1:{free_port()}", None).get("/v1/models")
    assert "swarm door open" not in str(named.value)


def test_the_state_comes_from_the_node_here_which_needs_no_door(
    node_says: NodeSays, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node_says(node_state(door={"listen": "", "keys": [], "problem": ""}))
    assert viewpoint("", None)()["node"] == node_state()["node"]
    monkeypatch.setattr(sys, "argv", ["swarm", "status"])
    with pytest.raises(SystemExit) as ended:
        main()
    out = capsys.readouterr().out
    assert (ended.value.code or 0) == 0
    assert "desk" in out
    assert "org/other: can't be served: no node holds 4:8" in out
