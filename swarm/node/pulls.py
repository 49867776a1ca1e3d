"""Weights that this node's user wants on the disk, whatever the node holds: begun once, asked about until done."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from swarm.errors import ConfigError
from swarm.types import LayerSpan

if TYPE_CHECKING:
    from swarm.models.store import LocalModel, Wanted
    from swarm.node.library import Library

ANSWER_SECONDS = 0.3
"""A question about a pull that goes on is answered after so long at the latest."""


class _Pull:
    """One pull: a Progress that remembers the last it was told, by whichever thread works."""

    def __init__(self) -> None:
        self.what, self.done, self.total = "", 0, 0
        self.task: asyncio.Task[LocalModel] | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        self.what, self.done, self.total = what, done, total


class Pulls:
    """Owns the pulls that go on. Who asks may leave and ask again; what came is on the disk in any case."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._pulls: dict[tuple[str, str, bool], _Pull] = {}

    async def ask(self, name: str, layers: str, ends: bool) -> dict[str, Any]:
        """Begin to get a model's layers ``A:B`` (empty: all) and, with ``ends``, its ends; or say how far that is.

        Answers ``state`` (running or done), ``what``, ``done_bytes`` and ``total_bytes`` of the piece of work that
        goes on, and at the end ``model`` and ``folder``. Raises SwarmError when it failed; asked again it goes on
        where it was.
        """
        try:
            span: Wanted = LayerSpan.parse(layers) if layers else "all"
        except ValueError as exc:
            raise ConfigError(f"layers: {exc}") from None
        key = (name, layers, ends)
        pull = self._pulls.setdefault(key, _Pull())
        task = pull.task
        if task is None:
            task = pull.task = asyncio.create_task(
                self._library.pull(name, span=span, ends=ends, progress=pull), name=f"pull of {name}"
            )
        done, _ = await asyncio.wait([task], timeout=ANSWER_SECONDS)
        said = {"what": pull.what, "done_bytes": pull.done, "total_bytes": pull.total}
        if not done:
            return {"state": "running", **said}
        self._pulls.pop(key, None)
        local = task.result()
        return {"state": "done", **said, "model": str(local.id), "folder": str(local.folder)}

    async def aclose(self) -> None:
        """Stop what goes on; what came is kept."""
        tasks = [pull.task for pull in self._pulls.values() if pull.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
