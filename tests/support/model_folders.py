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


LARGE_LAYER_BYTES = 3 * 1024 * 1024 + 4096
"""Not a whole number of chunks: layers share the chunks at their borders."""


def write_large(folder: Path, *, files: int = 2, seed: int = 0) -> Path:
    """Write a model whose layers have some MiB each, in one or two weight files, with what goes along with it."""
    write_config(folder)
    random = np.random.default_rng(seed)
    rows = LARGE_LAYER_BYTES // 4096
    names = [*(f"model.layers.{layer}.mlp.weight" for layer in range(LAYERS)), *_ENDS]
    tensors = {
        name: random.standard_normal((rows if "layers" in name else 8, 1024), dtype=np.float32)
        for name in names
    }
    if files == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        placed = {name: FIRST if name in names[:2] or "embed" in name else LAST for name in names}
        for file in (FIRST, LAST):
            chosen = {name: tensor for name, tensor in tensors.items() if placed[name] == file}
            save_file(chosen, folder / file, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": placed}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    (folder / "tokenizer.json").write_text("{}" * 10, "utf-8")
    (folder / "LICENSE").write_text("free", "utf-8")
    (folder / "README.md").write_text("goes nowhere", "utf-8")
    return folder


_ENDS = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
