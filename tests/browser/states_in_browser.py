"""The page at what swarms look like that are empty, large, broken or slow: a scripted door says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from swarm.errors import ModelError, ModelOnItsWayError
from swarm.node.front import ServedModel
from tests.support.browser import DESK, SHOTS, Watched, ask
from tests.support.front_door import MODEL, FakeFrontDoor, serving

LONG = "a-machine-with-a-very-long-name-that-nobody-can-read"
MIB = 1 << 20
OVERLAPS = (Path(__file__).parent / "overlaps.js").read_text(encoding="utf-8")


class Door(FakeFrontDoor):
    """A front door that says what it is told to, on an event loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.said = state_of(member(0, spans=["0:8"]))
        self.on_its_way = 0
        self._over = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self.port = 0
        self.open_door()

    def _serve(self) -> None:
        # A runner ends what is left on its loop, too.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._over.wait())

    def open_door(self) -> None:
        from swarm.types import Address

        served = self._run(
            self._stack.enter_async_context(serving(self, listen=Address("127.0.0.1", self.port)))
        )
        self.port = served.address.port

    def close_door(self) -> None:
        self._run(self._stack.aclose())

    def end(self) -> None:
        self.close_door()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def state(self, *, detail: bool) -> dict[str, Any]:
        return self.said

    async def ready(self, model: str) -> ServedModel:
        if self.on_its_way:
            self.on_its_way -= 1
            raise ModelOnItsWayError("not yet here")
        return await super().ready(model)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


def member(number: int, *, spans: list[str] = [], name: str = "", **changes: Any) -> dict[str, Any]:  # noqa: B006
    return {
        "node": f"{number:04d}" * 2 + "a" * 24, "name": name or f"machine-{number}",
        "state": "ready", "health": "alive", "routable": True, "memory_bytes": 2048 * MIB, "intended": [],
        "addresses": [f"192.168.1.{number}:7410"], "rtt_ms": 0.5 + number if number else None, "links": [],
        "load": {"sessions": 0, "queued_rows": 0, "rows_per_second": 0.0, "rss_bytes": 900 * MIB, "spans": []},
        "spans": [
            {"model": MODEL, "digest": "0" * 64, "layers": layers, "of": 8, "dtype": "bfloat16"} for layers in spans
        ],
        **changes,
    }  # fmt: skip


def state_of(*members: dict[str, Any], missing: list[str] = [], served: bool = True) -> dict[str, Any]:  # noqa: B006
    model = {
        "name": MODEL, "digest": "0" * 64, "layers": 8, "servable": not missing, "missing": missing, "problem": "",
    }  # fmt: skip
    return {
        "node": member(0)["node"], "members": list(members), "models": [model] if served else [], "sessions": [],
        "engine": {}, "weights": {"fetching": {}},
    }  # fmt: skip


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.end()


@pytest.fixture
def watched(browser: Browser, door: Door) -> Iterator[Watched]:
    context = browser.new_context(viewport=DESK)
    yield Watched(context.new_page(), door.url)
    context.close()


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_a_swarm_without_a_model_says_how_to_bring_one(door: Door, look: tuple[str, BrowserContext]) -> None:
    name, context = look
    door.said = state_of(member(0), served=False)
    page = Watched(context.new_page(), door.url).open()
    command = "python -m swarm join --bootstrap 192.168.1.0:7410 --model ID_OR_FOLDER"
    expect(page.locator("#models pre")).to_have_text(command)
    page.screenshot(path=SHOTS / f"empty-{name}.png")
    page.click("#to-chat")
    expect(page.locator("#unservable pre")).to_have_text(command)
    expect(page.locator("#empty")).to_be_hidden()
    assert fits(page)


def test_layers_on_their_way_are_drawn_and_told(door: Door, watched: Watched) -> None:
    coming = member(1, state="joining", routable=False, intended=[{"model": MODEL, "layers": "4:8"}])
    door.said = state_of(member(0, spans=["0:4"]), coming, missing=["4:8"])
    door.said["weights"]["fetching"] = {MODEL: {"bytes_received": 30 * MIB, "bytes_wanted": 100 * MIB}}
    page = watched.open()
    expect(page.locator(".bar.coming")).to_have_count(1)
    expect(page.locator("#coming")).to_contain_text(f"machine-1 is loading layers 4:8 of {MODEL}")
    expect(page.locator("#coming")).to_contain_text(f"fetching {MODEL}: 30 MiB of 100 MiB")
    page.screenshot(path=SHOTS / "coming.png", full_page=True)
    door.said = state_of(member(0, spans=["0:4"]), member(1, spans=["4:8"]))
    expect(page.locator(".bar.coming")).to_have_count(0)
    expect(page.locator("#coming li")).to_have_count(0)
    expect(page.locator("#problems")).to_be_empty()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 12, 13, 40])
def test_no_name_in_the_picture_lies_on_another(door: Door, watched: Watched, count: int) -> None:
    door.said = state_of(*(member(number, spans=["0:8"], name=LONG) for number in range(count)))
    page = watched.open()
    drawn = min(count, 32)
    expect(page.locator("#network .node")).to_have_count(drawn)
    assert page.evaluate(OVERLAPS) == [0, 0]
    page.screenshot(path=SHOTS / f"nodes-{count}.png", full_page=count < 32)


def test_nodes_of_one_name_are_told_apart(door: Door, watched: Watched) -> None:
    door.said = state_of(member(0, spans=["0:4"], name="vm"), member(1, spans=["4:8"], name="vm"), member(2))
    page = watched.open()
    names = page.locator("#network .node text:first-of-type")
    expect(names).to_have_text(["vm 0000", "vm 0001", "machine-2"])
    expect(page.locator("#nodes tbody th")).to_have_text(
        ["machine-2 00020002", "vm 00000000, this node", "vm 00010001"]
    )


def test_many_who_hold_the_same_share_a_row(door: Door, watched: Watched) -> None:
    halves = [["0:4"], ["4:8"]]
    door.said = state_of(*(member(number, spans=halves[number % 2]) for number in range(40)))
    page = watched.open()
    expect(page.locator(".model .bar")).to_have_count(2)
    expect(page.locator(".model svg > text", has_text="20 nodes")).to_have_count(2)


def test_long_names_and_holes_fit_a_phone(door: Door, look: tuple[str, BrowserContext]) -> None:
    name, context = look
    door.said = state_of(
        member(0, spans=["0:2", "3:4"], name=LONG), member(1, spans=["3:6"], health="suspect", routable=False),
        missing=["2:3", "6:8"],
    )  # fmt: skip
    watched = Watched(context.new_page(), door.url)
    page = watched.open()
    expect(page.locator(".hole")).to_have_count(2)
    page.screenshot(path=SHOTS / f"holes-{name}.png", full_page=True)
    assert fits(page)
    page.click("#to-chat")
    expect(page.locator("#unservable pre")).to_contain_text("--layers 2:3")
    assert fits(page)
    assert watched.complaints == []


def test_an_audit_of_what_is_missing_finds_nothing(door: Door, browser: Browser) -> None:
    door.said = state_of(member(0, spans=["0:4"]), missing=["4:8"])
    for options in ({}, {"color_scheme": "dark"}):
        context = browser.new_context(bypass_csp=True, viewport=DESK, **options)  # type: ignore[arg-type]
        page = Watched(context.new_page(), door.url).open()
        expect(page.locator("#problems pre")).to_be_visible()
        for part in ("#to-swarm", "#to-chat"):
            page.click(part)
            found = Axe().run(page).response["violations"]
            assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
        context.close()


def test_a_state_that_changes_leaves_what_is_selected_alone(door: Door, watched: Watched) -> None:
    door.said = state_of(member(0, spans=["0:4"]), missing=["4:8"])
    page = watched.open()
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#problems pre'))")
    page.locator("#problems .copy").focus()
    door.said = state_of(member(0, spans=["0:4"]), member(1), missing=["4:8"])
    expect(page.locator("#network .node")).to_have_count(2)
    expect(page.locator("#problems .copy")).to_be_focused()
    assert "--layers 4:8" in page.evaluate("getSelection().toString()")


def test_a_command_is_copied_by_a_button(door: Door, browser: Browser) -> None:
    door.said = state_of(member(0, spans=["0:4"]), missing=["4:8"])
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = Watched(context.new_page(), door.url).open()
    page.click("#problems .copy")
    expect(page.locator("#problems .copy")).to_have_text("Copied")
    wanted = f"python -m swarm join --bootstrap 192.168.1.0:7410 --model {MODEL} --layers 4:8"
    assert page.evaluate("navigator.clipboard.readText()") == wanted
    expect(page.locator("#problems .copy")).to_have_text("Copy")
    context.close()


def test_a_node_that_is_gone_is_not_shown_as_live_and_found_again(door: Door, watched: Watched) -> None:
    page = watched.open()
    door.close_door()
    expect(page.locator("#connection")).to_contain_text("does not answer")
    expect(page.locator("body")).to_have_class("stale")
    page.click("#to-chat")
    ask(page, "Anyone there?")
    expect(page.locator(".message .problem")).to_have_text("This node does not answer. Does it still run?")
    expect(page.locator("#text")).to_have_value("Anyone there?")
    door.open_door()
    expect(page.locator("#connection")).to_have_text("Live", timeout=15_000)
    page.keyboard.press("Enter")
    expect(page.locator(".assistant .content").last).to_have_text("Hello, world!")


def test_reasoning_is_folded_and_can_be_opened_by_keyboard(door: Door, watched: Watched) -> None:
    door.script = lambda request: ["<think>", "First ", "I count.", "</think>", "Seven."]
    page = watched.open("#chat")
    ask(page, "How many?")
    expect(page.locator(".assistant .content")).to_have_text("Seven.")
    thoughts = page.locator(".reasoning div")
    expect(thoughts).to_be_hidden()
    page.locator(".reasoning summary").focus()
    page.keyboard.press("Enter")
    expect(thoughts).to_be_visible()
    expect(thoughts).to_have_text("First I count.")
    page.screenshot(path=SHOTS / "reasoning.png")
    ask(page, "And now?")
    expect(page.locator(".assistant .content")).to_have_count(2)
    # What was thought is not said again.
    expect(page.locator(".assistant .content").last).to_have_text("Seven.")
    said = [turn["content"] for turn in door.chat_tokenizer.rendered[-1]["messages"]]
    assert said == ["How many?", "Seven.", "And now?"]


def test_an_answer_that_breaks_off_says_so_and_keeps_what_came(door: Door, watched: Watched) -> None:
    door.script = lambda request: ["Half", " an", ModelError("the only node that had it left")]
    page = watched.open("#chat")
    ask(page, "Tell me.")
    expect(page.locator(".message .problem")).to_contain_text("the only node that had it left")
    expect(page.locator(".assistant .content")).to_have_text("Half an")
    expect(page.locator(".about")).to_contain_text("broken off")
    expect(page.locator("#text")).to_have_value("")


def test_an_answer_whose_connection_ends_is_not_taken_for_whole(watched: Watched) -> None:
    page = watched.open("#chat")
    chunk = 'data: {"choices": [{"index": 0, "delta": {"content": "Half"}, "finish_reason": null}]}\n\n'
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=chunk),
    )
    ask(page, "Tell me.")
    expect(page.locator(".message .problem")).to_have_text("The connection ended before the answer did.")
    expect(page.locator(".assistant .content")).to_have_text("Half")


def test_a_model_that_the_door_still_fetches_is_waited_for(door: Door, watched: Watched) -> None:
    door.on_its_way = 2
    page = watched.open("#chat")
    ask(page, "Hello?")
    expect(page.locator(".assistant .content")).to_contain_text("is being fetched for this front door")
    expect(page.locator(".assistant .content")).to_have_text("Hello, world!")
    door.on_its_way = 1000
    ask(page, "Again?")
    expect(page.locator(".assistant .content").last).to_contain_text("is being fetched")
    page.keyboard.press("Escape")
    expect(page.locator(".about").last).to_contain_text("stopped")
    expect(page.locator("#text")).to_have_value("Again?")


def test_a_new_chat_knows_nothing_of_the_answer_that_it_broke_off(door: Door, watched: Watched) -> None:
    door.script = lambda request: ["Half an", asyncio.Event()]
    page = watched.open("#chat")
    ask(page, "One?")
    expect(page.locator(".assistant .content")).to_have_text("Half an")
    page.click("#new-chat")
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator("#empty")).to_be_visible()
    door.script = lambda request: ["Hello."]
    ask(page, "Two?")
    expect(page.locator(".assistant .content")).to_have_text("Hello.")
    assert [turn["content"] for turn in door.chat_tokenizer.rendered[-1]["messages"]] == ["Two?"]


def test_a_setting_out_of_range_is_shown_and_nothing_is_sent(door: Door, watched: Watched) -> None:
    page = watched.open("#chat")
    page.locator("summary", has_text="Settings").click()
    page.fill("#temperature", "9")
    page.locator("summary", has_text="Settings").click()
    ask(page, "Hello?")
    expect(page.locator("#temperature")).to_be_visible()
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator("#text")).to_have_value("Hello?")
    assert door.generations == []
    page.screenshot(path=SHOTS / "settings.png")


def test_a_suggestion_is_put_into_the_box_and_not_sent(door: Door, watched: Watched) -> None:
    page = watched.open("#chat")
    page.locator("#empty button").first.click()
    expect(page.locator("#text")).to_have_value("What is the capital of France?")
    expect(page.locator("#text")).to_be_focused()
    assert door.generations == []
    page.keyboard.press("Enter")
    expect(page.locator("#empty")).to_be_hidden()
    expect(page.locator(".assistant .content")).to_have_text("Hello, world!")


def test_code_in_an_answer_is_copied_by_a_button(door: Door, browser: Browser) -> None:
    door.script = lambda request: ["Do:\n\n```sh\n", "echo hi\n", "```\n"]
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = Watched(context.new_page(), door.url).open("#chat")
    ask(page, "How?")
    page.locator(".assistant .copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == "echo hi"
    context.close()
