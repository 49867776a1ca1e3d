"""A random model with the default model's tokenizer: real processes serve it at a fraction of the cost."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from swarm.models.store import ModelStore
from tests.support.swarm_process import MODEL

LAYERS = 6


def write_tiny_model(folder: Path, *, context: int = 4096) -> str:
    """Write it to ``folder`` and return what ``--model`` takes. Its weights are the same every time."""
    real = ModelStore().find(MODEL)
    if real is None:
        raise RuntimeError(f"{MODEL} is not on disk; scripts/test obtains it")
    folder.mkdir(parents=True)
    for file in real.folder.iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json":
            shutil.copy(file, folder)
    known = AutoConfig.from_pretrained(real.folder)
    torch.manual_seed(4)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=known.vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.25,
        tie_word_embeddings=True,
        bos_token_id=known.bos_token_id,
        eos_token_id=known.eos_token_id,
    )
    config.dtype = "float32"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)
