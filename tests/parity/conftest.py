"""Small random models, and engines that hold them in overlapping spans."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
import torch

from swarm.models.store import LocalModel
from swarm.types import LayerSpan
from tests.support.answers import Driver
from tests.support.models import Reference, random_model, running

torch.set_num_threads(1)  # these models are too small for two, which would wait for each other


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Reference]:
    """Makes a small random model of a family, saved as a model folder."""
    made: dict[str, Reference] = {}

    def make(family: str, **changes: Any) -> Reference:
        name = "-".join([family, *sorted(changes)])
        if name not in made:
            made[name] = random_model(family, changes, tmp_path_factory.mktemp("models") / name)
        return made[name]

    return make


@pytest.fixture
async def drive() -> AsyncIterator[Callable[..., Awaitable[Driver]]]:
    """Starts an engine that holds spans of a model, and its ends; all are closed after the test."""
    async with AsyncExitStack() as stack:

        async def start(local: LocalModel, spans: Sequence[LayerSpan], dtype: str = "float32") -> Driver:
            return await stack.enter_async_context(running(local, spans, dtype))

        yield start
