"""The page's files and the stream of states that it watches."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from swarm.api.feed import StateFeed
from swarm.api.page import page_files
from tests.support.front_door import serving


async def test_the_page_needs_no_key_but_what_it_shows_does() -> None:
    async with serving(keys=("secret",)) as served, httpx.AsyncClient(base_url=served.url) as client:
        answers = {path: await client.get(path) for path in page_files()}
        assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(answers, 200)
        assert (await client.get("/swarm/events")).status_code == 400
        assert (await client.get("/swarm/state")).status_code == 400


async def test_a_file_is_sent_again_only_when_it_changed_and_may_run_nothing_from_elsewhere() -> None:
    async with serving(keys=("secret",)) as served, httpx.AsyncClient(base_url=served.url) as client:
        first = await client.get("/")
        assert first.headers["content-type"] == "text/html; charset=utf-8"
        policy = first.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        again = await client.get("/", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_no_file_holds_inline_script_or_style_or_an_address_of_elsewhere() -> None:
    for path, file in page_files().items():
        text = file.body.decode()
        assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=\"", text), path
        named = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org"}
        assert named == set(), path
        assert "innerHTML =" not in text, path


@pytest.mark.parametrize("asset", ["page/style.css", "page/main.js", "page/icon.svg"])
def test_the_page_names_files_that_exist(asset: str) -> None:
    assert asset in page_files()["/"].body.decode()
    assert f"/{asset}" in page_files()


async def test_a_watcher_gets_the_state_at_once_and_then_only_changes() -> None:
    states = iter([{"n": 1}, {"n": 1}, {"n": 2}, {"n": 2}, {"n": 3}])
    events = StateFeed(lambda detail: next(states), interval=0.001).events(detail=True)
    assert [await anext(events) for _ in range(3)] == [
        b'event: state\ndata: {"n":%d}\n\n' % number for number in (1, 2, 3)
    ]
    await events.aclose()  # type: ignore[attr-defined]


async def test_watchers_share_a_state_but_only_with_others_that_may_see_as_much() -> None:
    built: list[bool] = []

    def state(detail: bool) -> dict[str, Any]:
        built.append(detail)
        return {"detail": detail}

    feed = StateFeed(state, interval=60)
    seen = [await anext(feed.events(detail=detail)) for detail in (True, False, True, False)]
    assert built == [True, False]
    assert seen[0] == seen[2] == b'event: state\ndata: {"detail":true}\n\n'
    assert seen[1] == seen[3] == b'event: state\ndata: {"detail":false}\n\n'
