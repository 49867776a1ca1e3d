"""Swarms of real processes with the real model, shared by the tests that don't hurt them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import preloaded, swarm_process
from tests.support.swarm_process import SwarmProcesses, swarm_of

swarm_process.preload = preloaded.AVAILABLE


@pytest.fixture(scope="session")
def three_nodes() -> Iterator[SwarmProcesses]:
    """Layers 0:10, 10:20 and 20:30 of the real model in three processes, each with a front door."""
    with swarm_of(["0:10", "10:20", "20:30"], labels=["desk", "rack", "rack"]) as swarm:
        yield swarm
