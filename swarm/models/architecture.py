"""What kind of model a folder holds, as transformers describes it. Reads no weights.

A family has no port here: whatever transformers builds as decoder layers between an embedding and a norm is taken
apart by loader.py and ends.py, and swarm.engine.selfcheck compares the parts with the whole before they serve.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING
from transformers.utils.logging import disable_progress_bar

from swarm.errors import ModelError
from swarm.models.spec import block_of_fp8
from swarm.types import DTYPES

PARTS = ("embed_tokens", "layers", "norm")
"""What a base model must have to be taken apart; ``rotary_emb`` may come beside them."""

FOREIGN_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""How transformers' model code fails on a configuration that it can't build or a call that it does not know."""

disable_progress_bar()


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype of one of swarm.types.DTYPES. Raises ModelError for any other name."""
    if name not in DTYPES:
        raise ModelError(f"dtype {name!r} is not supported; use one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def read_config(folder: Path) -> dict[str, Any]:
    """Return what config.json says. Raises ModelError."""
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelError(f"{folder.name}: config.json can't be used: {_first_line(exc)}") from exc
    if not isinstance(stored, dict):
        raise ModelError(f"{folder.name}: config.json does not hold an object")
    return stored


def load_config(folder: Path) -> PreTrainedConfig:
    """Return the configuration of the language model in ``folder``; of a multimodal one, its text part.

    Raises ModelError for what can't be served: code of its own, quantised weights, no causal language model.
    """
    stored = read_config(folder)
    try:
        whole = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, *FOREIGN_FAILURES) as exc:
        raise ModelError(f"{folder.name}: config.json can't be used: {_first_line(exc)}") from exc
    config: PreTrainedConfig = whole.get_text_config(decoder=True)
    if config is not whole and "tie_word_embeddings" in stored:
        config.tie_word_embeddings = stored["tie_word_embeddings"]
    if fp8_block(stored) is not None:
        # The loader turns them into plain weights; nothing of transformers is to expect anything else.
        for part in (whole, config):
            vars(part).pop("quantization_config", None)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or type(config) not in MODEL_MAPPING:
        raise ModelError(
            f"{folder.name}: models of type {config.model_type!r} can't be split into spans: "
            "transformers has no causal language model of that type"
        )
    if getattr(config, "use_bidirectional_attention", None) not in (None, False, "vision"):
        raise ModelError(f"{folder.name}: bidirectional attention can't be served token by token")
    return config


def fp8_block(stored: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return what ``block_of_fp8`` finds in a config.json, wherever in it the language model is described."""
    nested = stored.get("text_config")
    inner = block_of_fp8(nested) if isinstance(nested, Mapping) else None
    return block_of_fp8(stored) or inner


def skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """Return the whole base model without memory behind its tensors.

    Raises ModelError when it is not made of an embedding, decoder layers and a final norm.
    """
    try:
        with torch.device("meta"):
            base: PreTrainedModel = MODEL_MAPPING[type(config)](config)
    except FOREIGN_FAILURES as exc:
        raise ModelError(f"{config.model_type}: transformers can't build it: {_first_line(exc)}") from exc
    if lacking := [part for part in PARTS if not hasattr(base, part)]:
        raise ModelError(
            f"models of type {config.model_type!r} can't be split into spans: "
            f"the base model has no {' and no '.join(lacking)}"
        )
    return base


def stateful_mixers(layer: nn.Module) -> list[nn.Module]:
    """Return what in a decoder layer keeps a state instead of keys and values (linear attention, state spaces)."""
    return [m for m in layer.children() if "cache_params" in inspect.signature(m.forward).parameters]


def layer_types(config: PreTrainedConfig) -> list[str] | None:
    """Return the kind of each layer where the family tells one."""
    found: Any = getattr(config, "layer_types", None)
    return list(found) if found is not None else None


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0][:300]
