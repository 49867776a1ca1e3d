"""Pulls begun by one question and told of by the next ones."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from swarm.errors import ConfigError, ModelError
from swarm.node import pulls as pulls_module
from swarm.node.library import Library
from swarm.node.pulls import Pulls
from swarm.types import LayerSpan, ModelId

MODEL = ModelId("org/model", "1" * 64)


class Slow:
    """A library whose pull tells half of it and then waits."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.asked: list[Any] = []
        self.problem: ModelError | None = None

    async def pull(self, name: str, *, span: Any, ends: bool, progress: Any) -> Any:
        self.asked.append((name, span, ends))
        progress("Fetching org/model", 5, 10)
        await self.go_on.wait()
        if self.problem is not None:
            raise self.problem
        return SimpleNamespace(id=MODEL, folder=Path("folder"))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulls_module, "ANSWER_SECONDS", 0.01)


async def test_a_pull_is_begun_once_and_says_how_far_it_is_until_it_is_done() -> None:
    library = Slow()
    pulls = Pulls(cast(Library, library))
    for _ in range(3):
        said = await pulls.ask("org/model", "2:4", False)
        assert (said["state"], said["done_bytes"], said["total_bytes"]) == ("running", 5, 10)
    library.go_on.set()
    said = await pulls.ask("org/model", "2:4", False)
    assert said["state"] == "done"
    assert (said["model"], said["folder"]) == (str(MODEL), "folder")
    assert library.asked == [("org/model", LayerSpan(2, 4), False)]


async def test_a_pull_that_failed_says_why_and_is_begun_anew_when_asked_again() -> None:
    library = Slow()
    library.problem = ModelError("no member gives it")
    library.go_on.set()
    pulls = Pulls(cast(Library, library))
    for _ in range(2):
        with pytest.raises(ModelError, match="no member gives it"):
            await pulls.ask("org/model", "", True)
    assert library.asked == [("org/model", "all", True)] * 2


async def test_layers_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="layers"):
        await Pulls(cast(Library, Slow())).ask("org/model", "4:2", True)


async def test_a_pull_ends_with_its_node() -> None:
    pulls = Pulls(cast(Library, Slow()))
    await pulls.ask("org/model", "", True)
    await pulls.aclose()
    assert [task for task in asyncio.all_tasks() if "pull" in task.get_name()] == []
