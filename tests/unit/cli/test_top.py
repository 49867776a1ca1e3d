"""`swarm top` in a terminal that is none (Textual's pilot), over a node that answers from a script."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Footer, Input, Static

from swarm.cli.top import app as top_module
from swarm.cli.top.app import TopApp
from swarm.cli.top.panes import Lines, Rows
from swarm.errors import ConfigError, SwarmError
from swarm.node.control import ChangeKeys, CloseDoor, GetState, NodeRefusedError, OpenDoor, SetLayers
from tests.support.node_state import DIGEST, node_state

MODEL = f"org/model@{DIGEST[:12]}"


class Scene:
    """A node, and the app that looks at it."""

    def __init__(self) -> None:
        self._state: dict[str, Any] | SwarmError = node_state()
        self._looked = False
        self._changed = asyncio.Event()
        self.asked: list[Any] = []
        self.answers: dict[type, Any] = {}
        self.hold = asyncio.Event()
        self.hold.set()
        self.app = TopApp(self.ask, "FOLDER")
        self.pilot: Pilot[None]

    async def ask(self, request: Any) -> dict[str, Any]:
        if isinstance(request, GetState):
            # Answers once, then when it has something new to say: a screen at rest is what the pilot waits for.
            if self._looked:
                await self._changed.wait()
            self._looked = True
            self._changed.clear()
            if isinstance(self._state, SwarmError):
                raise self._state
            return self._state
        self.asked.append(request)
        await self.hold.wait()
        answer = self.answers.get(type(request), {})
        if isinstance(answer, SwarmError):
            raise answer
        return answer

    def becomes(self, state: dict[str, Any] | SwarmError) -> None:
        self._state = state
        self._changed.set()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def until(self, shown: Any) -> None:
        for _ in range(200):
            if shown():
                return
            await self.pilot.pause(0.01)
        raise TimeoutError(self.screen)

    @property
    def screen(self) -> str:
        """Every word on the screen that is in front."""
        found = [str(static.render()) for static in self.app.screen.query(Static)]
        for table in self.app.screen.query(Rows):
            if table.is_attached and table.size.height:
                found += [str(cell) for at in range(table.row_count) for cell in table.get_row_at(at)]
        return "\n".join(found)

    async def shows(self, text: str) -> None:
        await self.until(lambda: text in self.screen)


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(top_module, "LOOK_SECONDS", 0.0)
    found = Scene()
    async with found.app.run_test(size=(80, 24)) as found.pilot:
        await found.shows("desk oneaaaaa")
        yield found


async def test_each_page_shows_its_part_and_what_can_be_done_there(scene: Scene):
    offered = {"1": "", "2": "Layers Auto Remove ", "3": "", "4": "Open Close Port Key New key Delete key "}
    words = {"1": "sixccccc", "2": "can't be served", "3": "desk 0:10 → rack 10:30", "4": "0123456789ab"}
    for page, text in words.items():
        await scene.press(page)
        await scene.shows(text)
        footer = scene.app.screen.query_one(Footer)
        labels = [binding.description for binding in footer.query("FooterKey")]  # type: ignore[attr-defined]
        assert " ".join(labels) == f"{offered[page]}Help Quit"
        assert all(key.region.right <= 80 for key in footer.query("FooterKey"))


async def test_the_chosen_member_is_described_and_stays_chosen_while_the_swarm_changes(scene: Scene):
    await scene.press("down", "down")
    await scene.shows("attic  unreachable")
    members = node_state()["members"]
    scene.becomes(node_state(members=[members[0], members[1]]))
    await scene.until(lambda: "suspect" not in scene.screen)
    assert "links to" in str(scene.app.query_one("#member", Lines).render())


async def test_a_node_that_is_gone_is_said_and_found_again(scene: Scene):
    scene.becomes(ConfigError("no node runs with the state folder FOLDER"))
    await scene.until(lambda: scene.app.query_one("#lost").has_class("shown"))
    await scene.shows("no node runs with the state folder FOLDER")
    scene.becomes(node_state(version="2.0.0"))
    await scene.shows("swarm 2.0.0")
    assert not scene.app.query_one("#lost").has_class("shown")


async def test_layers_are_changed_and_the_screen_lives_on_while_the_node_works(scene: Scene):
    scene.hold.clear()
    await scene.press("2", "l")
    field = scene.app.screen.query_one("#field-layers", Input)
    field.value = "0:15"
    await scene.press("enter")
    assert scene.asked == [SetLayers("0:15", MODEL, False)]
    await scene.shows(f"changing to layers 0:15 of {MODEL} …")
    scene.becomes(node_state(version="2.0.0"))
    await scene.press("1")
    await scene.shows("swarm 2.0.0")
    scene.hold.set()
    await scene.until(lambda: not scene.app.query_one("#doing").has_class("shown"))


async def test_a_refusal_is_shown_word_for_word_and_forced_only_by_a_yes(scene: Scene):
    text = "nobody else holds layers 4:10 of org/model: [b]or[/b] so"
    scene.answers[SetLayers] = NodeRefusedError(text, "NobodyElseError")
    await scene.press("2", "l")
    scene.app.screen.query_one("#field-layers", Input).value = "0:4"
    await scene.press("enter")
    await scene.shows(text)
    await scene.press("enter")
    assert scene.asked == [SetLayers("0:4", MODEL, False)]
    await scene.press("r")
    assert len(scene.asked) == 1, "leaving a model is asked about first"
    await scene.press("y")
    await scene.shows(text)
    del scene.answers[SetLayers]
    await scene.press("y")
    assert scene.asked[1:] == [SetLayers("none", MODEL, False), SetLayers("none", MODEL, True)]


async def test_other_errors_are_shown_word_for_word_and_can_not_be_forced(scene: Scene):
    text = "layers 0:30 of org/model in bfloat16 need 900 MiB; this node may use 800 MiB."
    scene.answers[SetLayers] = NodeRefusedError(text, "DoesNotFitError")
    await scene.press("2", "a")
    await scene.shows(text)
    await scene.press("y", "escape")
    assert scene.asked == [SetLayers("auto", MODEL, False)]


async def test_the_door_is_opened_moved_and_closed_only_by_a_yes(scene: Scene):
    await scene.press("4", "o", "p")
    await scene.press(*"9000", "enter")
    await scene.press("x", "enter", "x", "y")
    assert scene.asked == [OpenDoor(), OpenDoor("9000"), CloseDoor()]


async def test_keys_come_and_go_and_only_a_new_one_is_shown_once(scene: Scene):
    await scene.press("4", "k")
    await scene.press(*"s3cret")
    assert "s3cret" not in scene.screen
    assert scene.app.screen.query_one("#field-key", Input).password
    await scene.press("enter", "n")
    await scene.shows("shown this once")
    made = scene.asked[1].add[0]
    assert made in scene.screen
    await scene.press("enter", "d")
    await scene.shows("the last one")
    await scene.press("y")
    assert made not in scene.screen
    assert scene.asked == [ChangeKeys(("s3cret",)), ChangeKeys((made,)), ChangeKeys(remove=("0123456789ab",))]


async def test_help_and_the_other_theme_and_the_way_out(scene: Scene):
    assert scene.app.current_theme.dark
    await scene.press("t", "question_mark")
    await scene.shows("choose its layers by itself")
    assert not scene.app.current_theme.dark
    await scene.press("escape", "q")
    await scene.until(lambda: not scene.app.is_running)


def test_without_a_terminal_one_line_says_what_there_is_for_scripts():
    run = subprocess.run(
        [sys.executable, "-m", "swarm", "top"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, len(run.stderr.splitlines())) == (2, 1)
    assert "needs a terminal" in run.stderr


def test_without_textual_one_line_says_how_to_get_it_and_help_needs_neither_it_nor_torch():
    code = (
        "import sys; sys.modules['textual'] = None; sys.argv = ['swarm', *{!r}.split()]\n"
        "import importlib.util; found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'textual' else found(name, *rest)\n"
        "from swarm.cli.app import main\n"
        "try: main()\n"
        "finally: print({{'textual', 'torch', 'transformers', 'quart'}} & sys.modules.keys() - {{'textual'}})\n"
    )
    run = [
        subprocess.run(
            [sys.executable, "-c", code.format(words)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for words in ("top", "top --help")
    ]
    assert [one.returncode for one in run] == [2, 0]
    assert len(run[0].stderr.splitlines()) == 1
    assert "pip install" in run[0].stderr
    assert [one.stdout.splitlines()[-1] for one in run] == ["set()", "set()"]
