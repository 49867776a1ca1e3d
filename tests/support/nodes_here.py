"""Real nodes in this process, for tests that look into them or bend what they do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from swarm.config import Config, ModelSettings, NodeSettings
from swarm.engine.params import SamplingParams
from swarm.node.front import GenerationRequest
from swarm.node.generation import RunningGeneration
from swarm.node.keystore import Keystore
from swarm.node.node import Node
from swarm.types import Address, LayerSpan, NodeId
from tests.support.links import SECRET

PROMPT = tuple(range(100, 140))
TOKENS = 60


@contextlib.asynccontextmanager
async def node_of(
    folder: Path, model: str, layers: LayerSpan | str, *bootstrap: Address
) -> AsyncIterator[Node]:
    config = Config(
        node=NodeSettings(
            name=folder.name, listen=Address("127.0.0.1", 0), bootstrap=bootstrap, state=str(folder)
        ),
        model=ModelSettings(model=(model,), layers=layers, dtype="float32"),
    )
    with Keystore(folder) as keystore:
        identity = keystore.open(create_secret=False, swarm_key_file="", environ_key=SECRET.hex())
        node = Node(config, keystore, identity, lambda line: None)
        bound: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(node.run(None, bound.set_result))
        try:
            node.address = await asyncio.wait_for(bound, 30)  # type: ignore[attr-defined]
            yield node
        finally:
            node.stop()
            await task


async def generation(front: Node, model: str) -> RunningGeneration:
    request = GenerationRequest("test", model, PROMPT, SamplingParams(temperature=0), TOKENS, ignore_eos=True)
    return await front.open(request)


async def answer(front: Node, model: str) -> list[int]:
    running = await generation(front, model)
    try:
        return [event.token async for event in running if event.token >= 0]
    finally:
        await running.aclose()


def identity(node: Node) -> NodeId:
    return node._membership.node_id
