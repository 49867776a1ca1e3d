"""The models that a front door serves: their ends fetched on first use, or at the start for those named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from swarm.errors import ModelOnItsWayError, SwarmError, UnknownModelError
from swarm.types import ModelId

if TYPE_CHECKING:
    from swarm.models.store import LocalModel
    from swarm.models.tokenizer import ChatTokenizer
    from swarm.node.hosting import Hosting
    from swarm.node.library import Library

RETRY_SECONDS = 2.0


class DoorModels:
    """Owns the fetches of ends. ``wait_seconds`` is how long a request waits for one before it is told to return."""

    def __init__(
        self,
        *,
        library: Library,
        hosting: Hosting,
        wait_seconds: float,
        on_change: Callable[[], None],
        announce: Callable[[str], None],
    ) -> None:
        self._library = library
        self._hosting = hosting
        self._wait_seconds = wait_seconds
        self._on_change = on_change
        self._announce = announce
        self._coming: dict[ModelId, asyncio.Task[LocalModel]] = {}
        self._problems: dict[ModelId, str] = {}

    def problem(self, model: ModelId) -> str:
        """Return why the ends of a model could not be had the last time; empty when they are here or untried."""
        return self._problems.get(model, "")

    async def ready(self, model: ModelId) -> LocalModel:
        """Return a model whose ends are loaded.

        Raises ModelOnItsWayError when they take longer than ``wait_seconds``: they go on coming, and a later call
        finds them. Raises ModelError when they can't be had.
        """
        task = self._coming.get(model)
        if task is None:
            local = self._library.models.get(model)
            if local is not None and self._hosting.has_ends(model):
                return local
            task = self._coming[model] = asyncio.create_task(self._fetch(model), name=f"ends of {model}")
            task.add_done_callback(lambda _task: self._coming.pop(model, None))
        done, _ = await asyncio.wait([task], timeout=self._wait_seconds)
        if not done:
            raise ModelOnItsWayError(
                f"{model.name} is being fetched for this front door; try again in a few seconds"
            )
        return task.result()

    async def tokenizer(self, model: ModelId) -> ChatTokenizer:
        """Raises as ``ready`` does."""
        return await self._hosting.tokenizer(await self.ready(model))

    async def run(self, names: Sequence[str]) -> None:
        """Get the ends of the models called so, however long it takes until the swarm serves them."""
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(self._get(name))

    async def aclose(self) -> None:
        tasks = list(self._coming.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _get(self, name: str) -> None:
        said = ""
        while True:
            try:
                local = await self.ready(self._library.resolve(name))
            except ModelOnItsWayError:
                continue
            except SwarmError as exc:
                # Before the swarm serves it there is nothing to say: it may be on its way itself.
                if not isinstance(exc, UnknownModelError) and str(exc) != said:
                    said = str(exc)
                    self._announce(f"--serve {name}: {exc}")
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._announce(f"The front door is ready for {local.id}.")
                return

    async def _fetch(self, model: ModelId) -> LocalModel:
        try:
            # Before anything large is fetched: whether it would fit is known from where its tensors lie.
            self._hosting.check_ends(await self._library.described(model))
            local = await self._library.for_door(model)
            await self._hosting.need_ends(local)
            await self._hosting.tokenizer(local)
        except SwarmError as exc:
            self._problems[model] = str(exc)
            raise
        self._problems.pop(model, None)
        self._on_change()
        return local
