"""What the user of a node changes while it runs, through its control socket: layers, door and keys.

This swarm is its own: its nodes hold other layers afterwards.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from swarm.node.control import ChangeKeys, CloseDoor, GetState, NodeRefusedError, OpenDoor, SetLayers, ask
from tests.support.streams import say
from tests.support.swarm_process import MODEL, NodeProcess, SwarmProcesses, free_port, swarm_of, wait_for
from tests.support.terminal import ENTER, swarm_on_a_terminal
from tests.support.tiny_model import write_tiny_model

pytestmark = [pytest.mark.processes, pytest.mark.real_model, pytest.mark.timeout(300)]

TOKENS = 800


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmProcesses]:
    """A door with layers 0:3, and a node with 3:6."""
    model = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    with swarm_of(["0:3", "3:6"], doors=[True, False], model=model, extra=["--memory", "900MB"]) as running:
        yield running


def control(node: NodeProcess, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swarm", *arguments, "--state", str(node.folder / "state")]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def answered(node: NodeProcess, *arguments: str, stdin: str = "") -> Any:
    done = control(node, *arguments, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stream(url: str, tokens: int = TOKENS, key: str = "unused") -> Iterator[str]:
    return say(url, "tiny", tokens, key)


def status(url: str, key: str = "") -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{url}/v1/models", headers=headers), timeout=10
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code
    except OSError:
        return 0


def test_layers_change_under_a_running_answer_and_its_text_is_whole_and_the_same(
    swarm: SwarmProcesses,
) -> None:
    door, other = swarm.nodes
    undisturbed = "".join(stream(door.url))
    assert control(other, "layers").stdout.strip() == "tiny: 3:6 of 6 (as told)"
    with ThreadPoolExecutor(1) as pool:
        pieces = stream(door.url)
        first = next(pieces)
        rest = pool.submit(lambda: "".join(pieces))
        changed = answered(other, "layers", "0:6")
        assert changed["layers"] == ["0:6"]
        folder = other.folder / "state"
        assert not rest.done(), "the answer ended before anything changed: make it longer"
        assert ask(folder, SetLayers("2:6"))["layers"] == ["2:6"]
        assert first + rest.result(timeout=120) == undisturbed


def test_what_would_leave_layers_to_nobody_or_does_not_fit_is_refused_and_changes_nothing(
    swarm: SwarmProcesses,
) -> None:
    door, other = swarm.nodes
    answered(other, "layers", "3:6")
    refused = control(other, "layers", "0:3")
    assert refused.returncode == 1
    assert "nobody else holds layers 3:6 of tiny" in refused.stderr
    assert "--force" in refused.stderr
    assert control(other, "layers", "0:9").returncode == 1
    with pytest.raises(NodeRefusedError, match=r"A:B.*auto or none"):
        ask(other.folder / "state", SetLayers("some"))
    assert [held["layers"] for held in answered(other, "layers")] == [["3:6"]]
    assert "".join(stream(door.url, 20))


def test_a_node_gives_the_choice_back_and_leaves_a_model(swarm: SwarmProcesses) -> None:
    door, other = swarm.nodes
    folder = other.folder / "state"
    assert ask(folder, SetLayers("auto"))["told"] == "auto"
    assert ask(folder, SetLayers("0:6"))["told"] == "0:6"
    wait_for("the door to hear of it", lambda: swarm.holders(door, "0:6") == 1)
    assert ask(door.folder / "state", SetLayers("none"))["layers"] == []
    assert "".join(stream(door.url, 20))
    with pytest.raises(NodeRefusedError, match="nobody else holds layers 0:6"):
        ask(folder, SetLayers("none", "tiny"))
    gone = answered(other, "layers", "none", "--force")
    assert (gone["told"], gone["layers"]) == ("none", [])
    wait_for("the door to miss the layers", lambda: door.get("/health")[0] == 503)
    assert answered(other, "layers", "0:6", "--model", "tiny")["layers"] == ["0:6"]
    swarm.wait_servable([door])


def test_keys_change_and_the_door_moves_while_an_answer_runs(swarm: SwarmProcesses, tmp_path: Path) -> None:
    door = swarm.nodes[0]
    new = answered(door, "door", "add-key", "--new")
    second = answered(door, "door", "add-key", stdin="a-second-key\n")
    shown = control(door, "door", "show").stdout
    assert new["new"] not in shown
    assert "a-second-key" not in shown + json.dumps(second)
    assert [status(door.url), status(door.url, "a-second-key"), status(door.url, new["new"])] == [
        400,
        200,
        200,
    ]
    pieces = stream(door.url, 400, key="a-second-key")
    first = next(pieces)
    (gone,) = (key["id"] for key in second["keys"] if key not in new["keys"])
    assert answered(door, "door", "remove-key", gone)["keys"] == new["keys"]
    assert [status(door.url, "a-second-key"), status(door.url, new["new"])] == [401, 200]
    before, port = door.url, free_port()
    assert answered(door, "door", "open", str(port)) == {"listen": f"127.0.0.1:{port}"}
    assert [status(before, new["new"]), status(f"http://127.0.0.1:{port}", new["new"])] == [0, 200]
    assert len(first + "".join(pieces)) > len(first)
    door.api = port
    folder = door.folder / "state"
    assert ask(folder, ChangeKeys(remove=(new["keys"][0]["id"],)))["keys"] == []
    assert status(door.url) == 200
    ask(folder, CloseDoor())
    assert status(door.url) == 0
    assert "closed" in control(door, "door", "show").stdout
    assert ask(folder, OpenDoor())["listen"] == f"127.0.0.1:{port}"
    assert status(door.url) == 200


def test_a_person_opens_the_door_and_changes_layers_in_the_terminal(swarm: SwarmProcesses) -> None:
    other, port = swarm.nodes[1], free_port()
    folder = other.folder / "state"
    ask(folder, SetLayers("0:6", "tiny"))
    with swarm_on_a_terminal("top", "--state", str(folder), columns=80, rows=24) as top:
        top.shows(r"node1 \w{8} +ready +2 members")
        top.type("4")
        top.shows("The front door is closed")
        top.type("p")
        top.shows("Where the front door listens")
        top.type(f"{port}{ENTER}")
        top.shows(f"http://127.0.0.1:{port}/v1")
        assert status(f"http://127.0.0.1:{port}") == 200
        top.type("2")
        top.shows(r"tiny +all 6 layers +0:6 +0:6")
        top.type("l")
        top.shows("Layers that this node holds")
        top.type(f"3:6{ENTER}")
        top.shows(r"tiny +(all 6 layers|lacks 0:3) +3:6 +3:6|nobody else holds")
        if "nobody else holds" in top.screen:
            top.type("y")
            top.shows(r"tiny +lacks 0:3 +3:6 +3:6")
            top.shows("×+")
        assert ask(folder, GetState())["holding"][0]["layers"] == ["3:6"]
        top.type("q")
        assert top.ended() == 0
    with pytest.raises(NodeRefusedError, match=r"need \d+ MiB .* this node may use \d+ MiB"):
        ask(folder, SetLayers("0:30", MODEL))
    assert ask(folder, GetState())["holding"][0]["layers"] == ["3:6"]
