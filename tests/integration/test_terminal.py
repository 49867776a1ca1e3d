"""The commands on a real pseudo-terminal: colours, progress, keys typed, and how Ctrl-C ends them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.front_door import MODEL, FakeFrontDoor, serving, state_of
from tests.support.swarm_process import SwarmProcesses, free_port
from tests.support.terminal import CTRL_D, ENTER, STYLE, Terminal, swarm_on_a_terminal

Found = TypeVar("Found")
LEFT_FULL_SCREEN = "\x1b[?1049l"
CURSOR_SHOWN = "\x1b[?25h"
FETCH_SECONDS = 120.0
"""At most so long until a node that has nothing has fetched what its door needs, and answered."""


class Door(FakeFrontDoor):
    """A front door with one member whose name can be changed."""

    name = "one"

    def state(self, *, detail: bool) -> dict[str, Any]:
        member = {
            "node": "a" * 32, "name": self.name, "state": "ready", "health": "alive", "routable": True,
            "spans": [], "addresses": [], "links": [],
        }  # fmt: skip
        return state_of(member)


async def on_door(front: FakeFrontDoor, use: Callable[[str], Found]) -> Found:
    """Run ``use``, which waits for a terminal, beside the door whose address it gets."""
    async with serving(front) as served:
        return await asyncio.to_thread(use, str(served.address))


async def test_a_watched_status_is_drawn_anew_and_ctrl_c_leaves_the_terminal_as_it_was() -> None:
    front = Door()

    def watch(address: str) -> Terminal:
        with swarm_on_a_terminal("status", "--watch", "--api", address) as terminal:
            terminal.shows(f"one.*\n(.*\n)*{MODEL}: can be served")
            front.name = "renamed"
            terminal.shows("renamed")
            terminal.interrupt()
            assert terminal.ended() == 0
            return terminal

    terminal = await on_door(front, watch)
    assert terminal.coloured
    assert "Traceback" not in terminal.text
    tail = terminal.raw[terminal.raw.rindex("renamed") :]
    assert CURSOR_SHOWN in tail
    assert LEFT_FULL_SCREEN in tail


async def test_a_status_for_a_pipe_has_no_colours() -> None:
    def piped(address: str) -> str:
        command = [sys.executable, "-m", "swarm", "status", "--api", address]
        environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    out = await on_door(Door(), piped)
    assert "one" in out
    assert "\x1b" not in out


async def test_a_chat_streams_goes_on_after_ctrl_c_and_ends_when_told() -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()
    scripts: list[list[Any]] = [
        ["<think>", "hm", "</think>", "First", released, ", then more."],
        ["Half an", asyncio.Event(), "never"],
        ["Still here."],
    ]
    front = Door(script=lambda request: scripts.pop(0))

    def talk(address: str) -> Terminal:
        with swarm_on_a_terminal("chat", "--api", address) as terminal:
            terminal.shows("^>$")
            terminal.type("One?" + ENTER)
            terminal.shows("^First$")
            loop.call_soon_threadsafe(released.set)
            terminal.shows(r"^First, then more\.\n\[5 tokens .*anna 0:4 .*ben 4:8 .*\]\n>$")
            terminal.type("Two?" + ENTER)
            terminal.shows("^Half an$")
            terminal.interrupt()
            terminal.shows(r"^Half an.*\n\[.*stopped\]\n>$")
            terminal.type("Three?" + ENTER)
            terminal.shows(r"^Still here\.\n\[.*\]\n>$")
            terminal.type("/model nobody/has-it" + ENTER)
            terminal.shows(rf"nobody/has-it is not served; .* Still: {MODEL}")
            terminal.type("/quit" + ENTER)
            assert terminal.ended() == 0
            return terminal

    terminal = await on_door(front, talk)
    assert "\x1b[2mhm\x1b[0m" in terminal.raw
    asked = [message["content"] for message in front.chat_tokenizer.rendered[-1]["messages"]]
    assert asked == ["One?", "First, then more.", "Two?", "Half an", "Three?"]


async def test_a_chat_that_is_left_is_done_and_no_color_is_respected() -> None:
    def leave(address: str) -> int:
        with swarm_on_a_terminal("chat", "--api", address, environment={"NO_COLOR": "1"}) as terminal:
            terminal.shows("^>$")
            terminal.type("Hello?" + ENTER)
            terminal.shows(r"^Hello, world!\n\[4 tokens")
            terminal.type(CTRL_D)
            ended = terminal.ended()
            assert STYLE.search(terminal.raw) is None
            return ended

    assert await on_door(Door(), leave) == 0


async def test_one_answer_that_is_interrupted_is_no_success() -> None:
    def ask(address: str) -> Terminal:
        with swarm_on_a_terminal("chat", "Hello?", "--api", address) as terminal:
            terminal.shows("^Hello$")
            terminal.interrupt()
            assert terminal.ended() == 130
            return terminal

    terminal = await on_door(Door(script=lambda request: ["Hello", asyncio.Event()]), ask)
    assert "Traceback" not in terminal.text


async def test_a_bench_shows_how_far_it_is_and_ends_when_interrupted() -> None:
    answers = iter([["warm"], ["a", "b", "c", "d", asyncio.Event()]])

    def measure(address: str) -> Terminal:
        with swarm_on_a_terminal("bench", "--tokens", "10", "--api", address) as terminal:
            terminal.wrote(r"1 stream .* [4-9]0%")
            terminal.interrupt()
            assert terminal.ended() == 130
            return terminal

    terminal = await on_door(Door(script=lambda request: next(answers)), measure)
    assert terminal.coloured
    assert CURSOR_SHOWN in terminal.raw[-200:]
    assert "Traceback" not in terminal.text


def test_what_deletes_is_asked_about_and_an_interrupt_is_no_yes(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "org" / "model"
    folder.mkdir(parents=True)
    home = {"SWARM_HOME": str(tmp_path)}
    remove = ["models", "remove", "org/model"]
    for keys, code in (("", 130), ("n" + ENTER, 1), (ENTER, 1)):
        with swarm_on_a_terminal(*remove, environment=home) as terminal:
            terminal.wrote(r"Delete org/model, .*\? \[y/N\]")
            if keys:
                terminal.type(keys)
            assert (terminal.ended() if keys else terminal.interrupted()) == code
        assert folder.exists()
    piped = subprocess.run(
        [sys.executable, "-m", "swarm", *remove], input="y\n", capture_output=True, text=True, check=False,
        env=os.environ | home,
    )  # fmt: skip
    assert (piped.returncode, folder.exists()) == (2, True)
    assert "--yes" in piped.stderr
    with swarm_on_a_terminal(*remove, environment=home) as terminal:
        terminal.wrote(r"\[y/N\]")
        terminal.type("y" + ENTER)
        assert terminal.ended() == 0
    assert not folder.exists()


@pytest.mark.parametrize("no_color", [None, "1"])
def test_a_doctor_has_colours_unless_they_are_unwanted(tmp_path: Path, no_color: str | None) -> None:
    asked = ["doctor", "--state", str(tmp_path), "--listen", "127.0.0.1:0", "--api", "127.0.0.1:9"]
    with swarm_on_a_terminal(*asked, environment={"NO_COLOR": no_color}, columns=60) as terminal:
        terminal.wrote("versions: swarm")
        terminal.ended()
        # Broken between words, what follows indented.
        assert re.search(r"^ok    versions: torch .*,\n      \w.*$", terminal.text, re.MULTILINE)
        shown = terminal.raw[terminal.raw.index("versions: swarm") :]
        assert ("\x1b[3" in shown) == (no_color is None)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash to complete in")
def test_bash_completes_commands_and_options() -> None:
    script = """
        eval "$(env _SWARM_COMPLETE=source_bash "$SWARM")"
        complete -p swarm >/dev/null || exit 3
        COMP_WORDS=(swarm in); COMP_CWORD=1; _swarm_completion "$SWARM"; echo "${COMPREPLY[@]}"
        COMP_WORDS=(swarm join --quan); COMP_CWORD=2; _swarm_completion "$SWARM"; echo "${COMPREPLY[@]}"
        COMP_WORDS=(swarm models ver); COMP_CWORD=2; _swarm_completion "$SWARM"; echo "${COMPREPLY[@]}"
    """
    program = str(Path(sys.executable).with_name("swarm"))
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=False,
        env=os.environ | {"SWARM": program},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    init, quantize, verify = done.stdout.splitlines()
    assert set(init.split()) == {"init", "invite"}
    assert quantize.split() == ["--quantize"]
    assert verify.split() == ["verify"]


@pytest.mark.processes
@pytest.mark.real_model
@pytest.mark.timeout(300)
def test_a_node_that_joins_shows_what_it_fetches_answers_and_leaves_at_ctrl_c(
    three_nodes: SwarmProcesses, tmp_path: Path
) -> None:
    door, model = f"127.0.0.1:{free_port()}", three_nodes.model
    join = [
        "join", "--layers", "none", "--api", door, "--listen", "127.0.0.1:0", "--name", "laptop", "--dtype", "float32",
        "--state", str(tmp_path / "state"), "--bootstrap", f"127.0.0.1:{three_nodes.nodes[0].listen}",
    ]  # fmt: skip
    home = {"SWARM_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    own = {"SWARM_KEY": three_nodes.key, "OMP_NUM_THREADS": "1"}
    with swarm_on_a_terminal(*join, environment=home | own) as node:
        node.wrote("Starting")
        node.wrote(rf"API: http://{door}/v1\nIn a browser: http://{door}/")
        with swarm_on_a_terminal("chat", "--api", door, "--temperature", "0", columns=200) as chat:
            chat.shows("^>$")
            chat.type("What is the capital of France?" + ENTER)
            answered = r"Paris.*\n\[\d+ tokens.*node0 0:10 .*node1 10:20 .*node2 20:30 "
            chat.shows(answered, FETCH_SECONDS)
            chat.type(CTRL_D)
            assert chat.ended() == 0
        bar = node.wrote(rf"Fetching {model} .*\d+%")
        assert "\x1b[" in node.raw[: node.raw.index(bar[0][-3:])]
        node.interrupt()
        assert node.ended() == 0
    assert "Traceback" not in node.text
