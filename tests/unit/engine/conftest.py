"""A tiny random model on disk, and an engine that holds it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import set_verbosity_error

from swarm.config import EngineSettings
from swarm.engine.worker import Engine
from swarm.models.store import LocalModel, ModelStore
from swarm.types import LayerSpan
from tests.support.answers import Driver

LAYERS = 4
KV_BYTES = 256 * 1024

set_verbosity_error()


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> LocalModel:
    """A Llama of 4 layers whose tensors lie in several files."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    config.dtype = "float32"
    folder: Path = tmp_path_factory.mktemp("models") / "tiny-llama"
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="20KB")
    local = ModelStore(folder.parent / "home").find(str(folder))
    if local is None:
        raise RuntimeError("the tiny model was not found")
    return local


@pytest.fixture
async def driver(tiny_llama: LocalModel) -> AsyncIterator[Driver]:
    """An engine with all layers and the ends of the tiny model, and little room for KV."""
    engine = Engine(EngineSettings(threads=1, kv_bytes=KV_BYTES))
    engine.start()
    try:
        await engine.load_span(tiny_llama, LayerSpan(0, LAYERS), "float32")
        await engine.load_ends(tiny_llama, "float32")
        yield Driver(engine, tiny_llama.id)
    finally:
        await engine.aclose()
