"""Model folders with a few bytes of weights, for tests of where weights lie rather than what they compute."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LAYERS = 4
HIDDEN = 8
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "vocab_size": 32,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}
SHARDS = {
    "model-00001-of-00003.safetensors": ["model.embed_tokens.weight", "model.layers.0.mlp.weight"],
    "model-00002-of-00003.safetensors": ["model.layers.1.mlp.weight", "model.layers.2.mlp.weight"],
    "model-00003-of-00003.safetensors": ["model.layers.3.mlp.weight", "model.norm.weight", "lm_head.weight"],
}
FIRST, MIDDLE, LAST = SHARDS
ALL_TENSORS = [name for names in SHARDS.values() for name in names]
TENSOR_BYTES = HIDDEN * HIDDEN * 4


def _tensors(names: list[str], seed: int) -> dict[str, np.ndarray]:
    """Return a [8, 8] float32 tensor for each name."""
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((HIDDEN, HIDDEN), dtype=np.float32) for name in names}


def write_config(folder: Path, **changes: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes), "utf-8")


def write_single(folder: Path, seed: int = 0) -> Path:
    """Write a model of one weight file and return the folder."""
    write_config(folder)
    save_file(_tensors(ALL_TENSORS, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_sharded(folder: Path, seed: int = 0) -> Path:
    """Write a model of three weight files and an index, and return the folder."""
    write_config(folder)
    for file, names in SHARDS.items():
        save_file(_tensors(names, seed), folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, names in SHARDS.items() for name in names}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return folder
