"""What other nodes get to see: hidden states, never text or token ids; and what hidden states give away.

Two nodes in one process over real sockets, so that every frame the second one receives can be kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors import safe_open

from swarm.config import Config, ModelSettings, NodeSettings, SessionSettings
from swarm.engine.params import SamplingParams
from swarm.models.store import LocalModel, ModelStore
from swarm.node.dispatch import Dispatch
from swarm.node.front import GenerationRequest
from swarm.node.keystore import Keystore
from swarm.node.node import Node
from swarm.protocol.codec import encode
from swarm.protocol.messages import AnyMessage, Step
from swarm.types import Address, LayerSpan, NodeId
from tests.support.swarm_process import MODEL

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(300)]

SECRET = "5a" * 32
TEXT = "My password is correct horse battery staple, keep it between us."


class Wiretap:
    """Keeps every frame that a node of this process receives from another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.frames: list[tuple[AnyMessage, bytes]] = []
        received = Dispatch.received

        def tapped(dispatch: Dispatch, sender: NodeId, message: AnyMessage, payload: memoryview) -> None:
            if sender != dispatch.gossip.membership.node_id:
                self.frames.append((message, bytes(payload)))
            received(dispatch, sender, message, payload)

        monkeypatch.setattr(Dispatch, "received", tapped)

    def steps(self) -> list[tuple[Step, bytes]]:
        return [(message, payload) for message, payload in self.frames if isinstance(message, Step)]


@contextlib.asynccontextmanager
async def running(
    folder: Path, *, layers: LayerSpan | str, bootstrap: tuple[Address, ...], private: str = ""
):
    """One node in this process, without a front door of HTTP."""
    config = Config(
        node=NodeSettings(
            name=folder.name, listen=Address("127.0.0.1", 0), bootstrap=bootstrap, state=str(folder)
        ),
        model=ModelSettings(model=(MODEL,), layers=layers, dtype="float32", private_layers=private),
        session=SessionSettings(step_min_seconds=30.0),
    )
    with Keystore(folder) as keystore:
        identity = keystore.open(create_secret=False, swarm_key_file="", environ_key=SECRET)
        node = Node(config, keystore, identity, lambda line: None)
        task = asyncio.create_task(node.run(None))
        try:
            yield node
        finally:
            node.stop()
            await task


async def servable(node: Node, *, members: int) -> None:
    async with asyncio.timeout(60):
        while True:
            served = node.models()
            holders = {span.node for span in node.view().spans}
            if served and served[0].servable and len(holders) == members:
                return
            await asyncio.sleep(0.05)


async def listening(node: Node) -> Address:
    async with asyncio.timeout(30):
        while True:
            addresses = node._membership.members()[0].record.addresses
            if addresses:
                return addresses[0]
            await asyncio.sleep(0.02)


async def answer(node: Node, prompt: tuple[int, ...], tokens: int) -> list[int]:
    request = GenerationRequest("test", MODEL, prompt, SamplingParams(temperature=0), tokens, ignore_eos=True)
    generation = await node.open(request)
    try:
        return [event.token async for event in generation if event.token >= 0]
    finally:
        await generation.aclose()


@pytest.fixture(scope="module")
def model() -> LocalModel:
    local = ModelStore().find(MODEL)
    assert local is not None
    return local


@pytest.fixture(scope="module")
def embedding(model: LocalModel) -> np.ndarray:
    with safe_open(model.folder / "model.safetensors", "pt") as weights:
        return weights.get_tensor("model.embed_tokens.weight").float().numpy()


async def tapped_answer(tmp_path: Path, private: str) -> tuple[tuple[int, ...], list[int]]:
    """One answer of an origin that lets another node compute; returns its prompt's ids and its own."""
    async with running(tmp_path / "origin", layers="none", bootstrap=(), private=private) as origin:
        address = await listening(origin)
        async with running(tmp_path / "hop", layers=LayerSpan(0, 30), bootstrap=(address,)):
            await servable(origin, members=2 if private else 1)
            tokenizer = await origin.tokenizer(MODEL)
            text = tokenizer.render([{"role": "user", "content": TEXT}])
            prompt = tuple(tokenizer.encode(text, special=False))
            return prompt, await answer(origin, prompt, 8)


def recovered(tap: Wiretap, embedding: np.ndarray, prompt: tuple[int, ...]) -> float:
    """The share of the prompt's tokens that a nearest-embedding search finds in the hop's inputs."""
    rows = [np.frombuffer(payload, np.float32).reshape(step.count, -1) for step, payload in tap.steps()]
    inputs = np.concatenate(rows)[: len(prompt)]
    similarity = inputs @ embedding.T - 0.5 * (embedding**2).sum(1)
    return float((similarity.argmax(1) == np.array(prompt)).mean())


async def test_no_frame_holds_text_or_token_ids_but_the_first_hop_can_look_them_up(
    tmp_path, embedding, monkeypatch
):
    tap = Wiretap(monkeypatch)
    prompt, tokens = await tapped_answer(tmp_path, "")
    ids = [*prompt, *tokens]
    large = [(a, b) for a, b in pairwise(ids) if a > 255 and b > 255]
    as_ids = [msgspec.msgpack.encode(pair)[1:] for pair in large]
    as_ids += [np.array(pair, kind).tobytes() for pair in large for kind in ("<u2", "<u4", "<i8", ">u4")]
    assert tap.steps()
    assert large
    for message, payload in tap.frames:
        parts = (part for frame in encode(message, payload, number=0, part_bytes=1 << 16) for part in frame)
        frames = b"".join(bytes(part) for part in parts)
        for secret in (TEXT.encode(), b"password", b"staple", *as_ids):
            assert secret not in frames
    assert recovered(tap, embedding, prompt) == 1.0


@pytest.mark.parametrize("private", ["1", "1:1"])
async def test_with_private_layers_the_lookup_fails(tmp_path, embedding, monkeypatch, private):
    tap = Wiretap(monkeypatch)
    prompt, tokens = await tapped_answer(tmp_path, private)
    assert tap.steps()
    assert len(tokens) == 8
    assert recovered(tap, embedding, prompt) < 0.2
