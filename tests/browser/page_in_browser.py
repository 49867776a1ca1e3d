"""The page at `/` in a real Chromium, in front of real nodes. Started by scripts/test_browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, expect

from tests.support.browser import DESK, LOOKS, SHOTS, Watched, ask, set_temperature
from tests.support.swarm_process import SwarmProcesses, swarm_of, wait_for

KEY = "a-key-for-the-page"


@pytest.fixture(scope="module")
def swarm() -> Iterator[SwarmProcesses]:
    with swarm_of(["0:10", "10:20", "20:30"], doors=[True, False, False]) as swarm:
        keyed = swarm.add("none", extra=("--api-key-file", _key_file(swarm)))
        swarm.wait_servable([keyed])
        yield swarm


def _key_file(swarm: SwarmProcesses) -> str:
    path = swarm.folder / "api.key"
    path.write_text(KEY)
    return str(path)


@pytest.fixture
def watched(browser: Browser, swarm: SwarmProcesses) -> Iterator[Watched]:
    context = browser.new_context(viewport=DESK)
    yield Watched(context.new_page(), swarm.nodes[0].url)
    context.close()


def test_both_parts_load_without_complaint_and_nothing_comes_from_elsewhere(
    look: tuple[str, BrowserContext], swarm: SwarmProcesses
) -> None:
    name, context = look
    watched = Watched(context.new_page(), swarm.nodes[0].url)
    page = watched.open()
    expect(page.locator("#nodes tbody tr")).to_have_count(4)
    expect(page.locator(".model .bar")).to_have_count(3)
    expect(page.locator(".hole")).to_have_count(0)
    page.screenshot(path=SHOTS / f"swarm-{name}.png", full_page=True)
    page.click("#to-chat")
    expect(page.locator("#model option")).to_have_count(1)
    page.screenshot(path=SHOTS / f"chat-empty-{name}.png")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "wider than the screen"
    assert (watched.complaints, watched.foreign) == ([], [])


@pytest.mark.parametrize("part", ["", "#chat"])
def test_an_accessibility_audit_finds_nothing(
    look: tuple[str, BrowserContext], swarm: SwarmProcesses, browser: Browser, part: str
) -> None:
    name, _ = look
    # The audit's own script is injected, which the page's policy would refuse.
    context = browser.new_context(bypass_csp=True, **LOOKS[name])
    page = Watched(context.new_page(), swarm.nodes[0].url).open(part)
    if part:
        set_temperature(page, "0")
        ask(page, "What is the capital of France?")
        expect(page.locator(".about")).to_be_visible(timeout=60_000)
        page.screenshot(path=SHOTS / f"chat-{name}.png")
    else:
        expect(page.locator("#nodes tbody tr")).to_have_count(4)
    found = Axe().run(page).response["violations"]
    context.close()
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


def test_an_answer_streams_and_says_its_route_and_the_times_of_its_hops(watched: Watched) -> None:
    page = watched.open("#chat")
    set_temperature(page, "0")
    other = page.context.new_page()
    other.goto(watched.url)
    page.evaluate(
        """() => {
            window.lengths = new Set();
            const length = () => document.querySelector(".assistant .content")?.innerText.length;
            const observer = new MutationObserver(() => window.lengths.add(length()));
            observer.observe(document.getElementById("messages"), { childList: true, subtree: true });
        }"""
    )
    ask(page, "Count from 1 to 1000, one number on each line, leaving none out.")
    expect(other.locator(".route-segment").first).to_be_attached(timeout=30_000)
    expect(other.locator("#answers .hops li")).to_have_count(3)
    other.screenshot(path=SHOTS / "route.png", full_page=True)
    # Many lengths, each drawn: the text came bit by bit.
    page.bring_to_front()  # a page in the background draws nothing
    wait_for("text bit by bit", lambda: page.evaluate("window.lengths.size") > 20, seconds=30)
    page.keyboard.press("Escape")
    expect(page.locator(".about")).to_contain_text("stopped")
    expect(page.locator(".about .hops li")).to_have_text(["node0 0:10", "node1 10:20", "node2 20:30"])
    # Stopped means freed, too.
    expect(other.locator("#answers")).to_contain_text("None at the moment.", timeout=15_000)
    ask(page, "What is the capital of France?")
    about = page.locator(".message.assistant .about").last
    expect(about).to_contain_text("tokens/s", timeout=60_000)
    hops = about.locator(".hops li")
    expect(hops).to_have_count(3)
    assert [text.split(" · ")[0].removeprefix("→ ") for text in hops.all_inner_texts()] == [
        "node0 0:10",
        "node1 10:20",
        "node2 20:30",
    ]
    expect(hops.first).to_contain_text("ms")
    assert watched.complaints == []


def test_the_conversation_goes_on_and_new_chat_forgets_it(watched: Watched) -> None:
    page = watched.open("#chat")
    sent: list[Any] = []
    page.on(
        "request", lambda request: sent.append(request.post_data_json) if request.method == "POST" else None
    )
    ask(page, "Say one word.")
    expect(page.locator(".about")).to_be_visible(timeout=60_000)
    ask(page, "And another.")
    expect(page.locator(".about")).to_have_count(2)
    expect(page.locator(".about").last).to_be_visible(timeout=60_000)
    assert [message["role"] for message in sent[1]["messages"]] == ["user", "assistant", "user"]
    page.click("#new-chat")
    expect(page.locator(".message")).to_have_count(0)
    ask(page, "Hello.")
    expect(page.locator(".about")).to_be_visible(timeout=60_000)
    assert [message["content"] for message in sent[2]["messages"]] == ["Hello."]


def test_a_door_with_keys_asks_for_one_and_keeps_it_in_the_tab(
    browser: Browser, swarm: SwarmProcesses
) -> None:
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(swarm.nodes[3].url)
    page.fill("#key", "not the key")
    page.keyboard.press("Enter")
    expect(page.locator("#key-problem")).to_be_visible()
    page.screenshot(path=SHOTS / "key.png")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_have_text("Live")
    page.click("#to-chat")
    ask(page, "Say hello.")
    expect(page.locator(".about")).to_be_visible(timeout=60_000)
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert not any(KEY in url for url in asked)
    page.click("#forget-key")
    expect(page.locator("#key-dialog")).to_be_visible()
    context.close()


def test_a_door_that_fails_says_so_in_the_chat(watched: Watched) -> None:
    page = watched.open("#chat")
    set_temperature(page, "0")
    ask(page, "word " * 9000)
    expect(page.locator(".message .problem")).to_contain_text("context", timeout=60_000)


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "**<script>alert(1)</script>**",
        "```\n</code></pre><script>alert(1)</script>", "[x](data:text/html,<script>alert(1)</script>)",
        "| a | b |\n|---|---|\n| <b onmouseover=alert(1)>x</b> | y |", "https://a.example/\"onmouseover=alert(1)",
    ],
)  # fmt: skip
def test_what_a_model_writes_never_becomes_markup(watched: Watched, text: str) -> None:
    page = watched.open()
    made = page.evaluate(
        """async (text) => {
            const { markdown } = await import("./page/markdown.js");
            const box = document.createElement("div");
            box.append(...markdown(text));
            document.body.append(box);
            const every = [...box.querySelectorAll("*")];
            return [every.map((e) => e.localName), every.flatMap((e) => [...e.attributes].map((a) => a.name)),
                    every.filter((e) => e.href).map((e) => new URL(e.href).protocol)];
        }""",
        text,
    )
    names, attributes, protocols = made
    assert set(names) <= {"p", "strong", "pre", "code", "a", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(attributes) <= {"href", "rel", "target", "tabindex", "scope"}
    assert set(protocols) <= {"https:"}


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a *b* **c** `d*e*`", "<p>a <em>b</em> <strong>c</strong> <code>d*e*</code></p>"),
        ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
        ("# T\ntext", "<h4>T</h4><p>text</p>"),
        ("1. a\n2. b\n   - c", '<ol start="1"><li>a</li><li>b<ul><li>c</li></ul></li></ol>'),
        ("- a\n\n- b", "<ul><li>a</li><li>b</li></ul>"),
        ("```py\nx = 1\n\ny\n```\nz", '<pre tabindex="0"><code data-language="py">x = 1\n\ny</code></pre><p>z</p>'),
        ("```\nopen", '<pre tabindex="0"><code>open</code></pre>'),
        ("> q\n> r", "<blockquote><p>q\nr</p></blockquote>"),
        ("|a|b|\n|-|-|\n|1|2|", '<table><thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead>'
         "<tbody><tr><td>1</td><td>2</td></tr></tbody></table>"),
        ("a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"),
    ],
)  # fmt: skip
def test_markdown_is_shown_as_meant(watched: Watched, text: str, html: str) -> None:
    shown = watched.open().evaluate(
        """async (text) => {
            const { markdown } = await import("./page/markdown.js");
            const box = document.createElement("div");
            box.append(...markdown(text));
            return box.innerHTML;
        }""",
        text,
    )
    assert shown == html


def test_the_page_can_be_used_by_keyboard_alone(watched: Watched) -> None:
    page = watched.open()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "to-chat"
    page.keyboard.press("Enter")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("Say hello.")
    page.keyboard.press("Tab")
    expect(page.locator("#send")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".about")).to_be_visible(timeout=60_000)
    expect(page.locator("#text")).to_be_focused()


def test_a_killed_node_leaves_the_picture_and_the_mending_command_is_shown(
    watched: Watched, swarm: SwarmProcesses
) -> None:
    """Last: it breaks the swarm of this module."""
    page = watched.open()
    expect(page.locator("#network .node")).to_have_count(4)
    swarm.nodes[1].kill()
    expect(page.locator(".hole")).to_have_count(1, timeout=20_000)
    expect(page.locator("#problems pre")).to_contain_text("--layers 10:20")
    expect(page.locator("#network .node")).to_have_count(3, timeout=30_000)
    page.screenshot(path=SHOTS / "hole.png", full_page=True)
    page.click("#to-chat")
    expect(page.locator("#unservable")).to_contain_text("--layers 10:20")
    ask(page, "Anyone there?")
    expect(page.locator(".message .problem")).to_contain_text("10", timeout=30_000)
