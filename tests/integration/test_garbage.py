"""A hop of real nodes hands on NaN, or rows of another width: its answer goes on elsewhere with the same tokens."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from swarm.engine.jobs import StepResult
from swarm.node.node import Node
from swarm.types import LayerSpan
from tests.support.links import eventually
from tests.support.nodes_here import answer, generation, identity, node_of
from tests.support.tiny_model import LAYERS, write_tiny_model

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

HALVES = (LayerSpan(0, LAYERS // 2), LayerSpan(LAYERS // 2, LAYERS))


def nan(result: StepResult) -> StepResult:
    values = np.frombuffer(bytes(result.hidden), np.float32).copy()
    values[-3:] = np.nan
    return replace(result, hidden=values.tobytes())


def narrow(result: StepResult) -> StepResult:
    half = result.width // 2
    return replace(result, width=half, hidden=bytes(4 * half * result.count))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def five(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Node, list[Node], str]]:
    """A front node without layers, and two holders of each half."""
    folder: Path = tmp_path_factory.mktemp("garbage")
    model = write_tiny_model(folder / "model")
    async with contextlib.AsyncExitStack() as stack:
        front = await stack.enter_async_context(node_of(folder / "front", model, "none"))
        hops = [
            await stack.enter_async_context(
                node_of(folder / f"{half.start}-{number}", model, half, front.address)  # type: ignore[attr-defined]
            )
            for half in HALVES
            for number in range(2)
        ]
        await eventually(
            lambda: all((m := front._membership.member(identity(hop))) and m.routable for hop in hops),
            "all hops",
            60,
        )
        await eventually(lambda: any(m.servable for m in front.models()), "the model to be servable", 60)
        yield front, hops, front.models()[0].name


@pytest.mark.parametrize("garble", [nan, narrow])
@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize("place", [0, 1])
async def test_a_hop_that_returns_garbage_is_left_and_no_token_is_changed(
    five: tuple[Node, list[Node], str],
    monkeypatch: pytest.MonkeyPatch,
    garble: Callable[[StepResult], StepResult],
    after: int,
    place: int,
):
    """At the prefill (after 0 tokens) and at a decode step."""
    front, hops, model = five
    undisturbed = await answer(front, model)
    tokens: list[int] = []
    culprits: list[Node] = []

    def spoil(node: Node) -> None:
        take = node._stage.on_result

        def on_result(result: StepResult) -> None:
            if result.error is None and len(tokens) >= after:
                culprits[:] = culprits or [node]
                result = garble(result) if culprits == [node] else result
            take(result)

        monkeypatch.setattr(node._stage, "on_result", on_result)

    for node in hops[2 * place : 2 * place + 2]:
        spoil(node)
    running = await generation(front, model)
    async for event in running:
        tokens += [event.token] if event.token >= 0 else []
    await running.aclose()
    assert tokens == undisturbed
    assert running.stats.recoveries == 1
    assert identity(culprits[0]) not in [hop.node for hop in running.route]
    await eventually(lambda: not any(len(hop._stage._sessions) for hop in hops), "all hops to be free")
