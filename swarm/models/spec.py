"""What a model's config.json says of its shape, as one frozen value. Knows no file and no tensor.

Field names of config.json vary by family and age; this page is where they become one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from swarm.errors import ModelError
from swarm.types import DTYPES

_MAX_LAYERS = 4096
_MAX_SIZE = 2**31 - 1
_ROPE_WITHIN_CONTEXT = {"default", "su", "longrope", "llama3", "mrope", "proportional"}
"""Rotary types whose max_position_embeddings already is the extended length."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The shape of a causal language model. Sizes are counts of elements, never bytes."""

    model_type: str
    layers: int
    hidden_size: int
    vocab_size: int
    context_tokens: int
    dtype: str
    """bfloat16, float16 or float32: what the checkpoint was saved in."""
    tied_embeddings: bool
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    layer_types: tuple[str, ...]
    """One of full_attention, sliding_attention, chunked_attention, linear_attention, … for each layer."""
    kv_numbers: tuple[int, ...]
    """Numbers that each layer stores for a token: none where it keeps a state, or reads what another layer stores."""
    sliding_window: int | None
    eos_token_ids: tuple[int, ...]
    switch_tokens: int = 0
    """longrope: beyond so many tokens a sequence is computed by other factors, from its first token on; 0: never."""

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, default_dtype: str = "float32", default_tied: bool = True
    ) -> ModelSpec:
        """Read a config.json's contents; the language model of a multimodal one is its ``text_config``.

        The defaults stand for what the file leaves out (the checkpoint's own dtype, whether it has a head).
        Raises ModelError that names the field.
        """
        text = _text_config(config)
        for part in (config, text):
            block_of_fp8(part)
        layers = _count(text, "num_hidden_layers", "n_layer", "num_layers", most=_MAX_LAYERS)
        hidden = _count(text, "hidden_size", "n_embd", "d_model")
        heads = _count(text, "num_attention_heads", "n_head", "num_heads", default=1)
        window = _count(text, "sliding_window", default=0, least=0) or None
        head_dim = _count(text, "head_dim", default=max(hidden // heads, 1))
        kinds = _layer_types(text, layers, window)
        return cls(
            model_type=_model_type(text, config),
            layers=layers,
            hidden_size=hidden,
            vocab_size=_count(text, "vocab_size"),
            context_tokens=_context_tokens(text),
            dtype=_dtype(text, config, default_dtype),
            tied_embeddings=_tied(text, config, default_tied),
            num_attention_heads=heads,
            num_key_value_heads=_key_value_heads(text, heads),
            head_dim=head_dim,
            layer_types=kinds,
            kv_numbers=_kv_numbers(text, kinds, head_dim, _key_value_heads(text, heads)),
            sliding_window=window,
            eos_token_ids=tuple(
                sorted(token_ids(text.get("eos_token_id")) | token_ids(config.get("eos_token_id")))
            ),
            switch_tokens=_switch_tokens(text),
        )


def token_ids(value: object) -> frozenset[int]:
    """Read an eos_token_id as config files have it: absent, one id or a list of ids."""
    values = value if isinstance(value, list) else [value]
    return frozenset(v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0)


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(config, Mapping):
        raise ModelError("config.json does not hold an object")
    nested = config.get("text_config", {})
    if not isinstance(nested, Mapping):
        raise ModelError("config.json: text_config is not an object")
    for part in (config, nested):
        if part.get("auto_map") and not _is_native(part.get("model_type"), part["auto_map"]):
            raise ModelError(
                f"config.json has auto_map: models of type {str(part.get('model_type'))[:40]!r} need Python code of "
                "their own, and swarm runs none"
            )
        if part.get("is_encoder_decoder"):
            raise ModelError("config.json: an encoder-decoder is not a causal language model")
    return nested or config


def _is_native(model_type: object, auto_map: object) -> bool:
    """Whether the code that a model brings along is, by its name, a class that transformers itself has for it.

    Such code is of older days (Phi-3's); it is not run, and not needed. Code under other names means another model.
    """
    from transformers.models.auto import configuration_auto, modeling_auto  # slow, and seldom needed

    if not isinstance(model_type, str) or not isinstance(auto_map, Mapping):
        return False
    own = {
        "AutoConfig": configuration_auto.CONFIG_MAPPING_NAMES,
        "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
        "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    brought = {kind: str(name).rpartition(".")[2] for kind, name in auto_map.items() if kind in own}
    return bool(brought) and all(name == own[kind].get(model_type) for kind, name in brought.items())


def _model_type(text: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    found = text.get("model_type") or config.get("model_type")
    if not isinstance(found, str):
        raise ModelError("config.json names no model_type")
    return found


def _count(
    config: Mapping[str, Any], *names: str, default: int | None = None, least: int = 1, most: int = _MAX_SIZE
) -> int:
    """Return the first of ``names`` that is present and not null, checked to be a whole number."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ModelError(f"config.json: {name} is {str(value)[:40]}, not a number from {least} to {most}")
        return value
    if default is None:
        raise ModelError(f"config.json names no {names[0]}")
    return default


def _key_value_heads(text: Mapping[str, Any], heads: int) -> int:
    if text.get("multi_query"):
        return 1
    return _count(text, "num_key_value_heads", "num_kv_heads", default=heads)


def _context_tokens(text: Mapping[str, Any]) -> int:
    stated = _count(
        text, "max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "max_seq_len"
    )
    if str(text.get("model_type", "")).startswith("gemma3"):
        return stated  # its linear scaling of the global layers is already counted
    return max(stated, *(_extended(rope, stated) for rope in _ropes(text)), 0)


def _ropes(text: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the rotary settings: one set for all layers, or one for each layer type."""
    for name in ("rope_parameters", "rope_scaling"):
        found = text.get(name)
        if isinstance(found, Mapping):
            nested = [part for part in found.values() if isinstance(part, Mapping)]
            yield from nested or [found]


def _switch_tokens(text: Mapping[str, Any]) -> int:
    for rope in _ropes(text):
        if rope.get("rope_type", rope.get("type")) in ("longrope", "su"):
            inside = _count(rope, "original_max_position_embeddings", default=0, least=0)
            return inside or _count(text, "original_max_position_embeddings", default=0, least=0)
    return 0


def _extended(rope: Mapping[str, Any], stated: int) -> int:
    factor = rope.get("factor", 1.0)
    if rope.get("rope_type", rope.get("type", "default")) in _ROPE_WITHIN_CONTEXT or not isinstance(
        factor, (int, float)
    ):
        return stated
    original = rope.get("original_max_position_embeddings") or stated
    return int(original * factor) if isinstance(original, int) else stated


def _dtype(text: Mapping[str, Any], config: Mapping[str, Any], default: str) -> str:
    for part in (text, config):
        for name in ("dtype", "torch_dtype"):
            if isinstance(value := part.get(name), str):
                dtype = value.removeprefix("torch.")
                if dtype not in DTYPES:
                    raise ModelError(f"config.json: {name} is {value[:40]}, not one of {', '.join(DTYPES)}")
                return dtype
    return default


def _tied(text: Mapping[str, Any], config: Mapping[str, Any], default: bool) -> bool:
    for part in (config, text):
        if isinstance(value := part.get("tie_word_embeddings"), bool):
            return value
    return default


def block_of_fp8(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the block, rows x columns, that shares a scale where weights are stored in fp8; None for plain weights.

    Raises ModelError for weights that are quantised in any other way.
    """
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    method = str(found.get("quant_method", "unknown"))[:40]
    block = found.get("weight_block_size")
    if method == "fp8" and isinstance(block, list | tuple) and len(block) == 2:
        rows, columns = block
        if isinstance(rows, int) and isinstance(columns, int) and rows > 0 and columns > 0:
            return rows, columns
    raise ModelError(
        f"config.json: the weights are quantised already ({method}), in a way that swarm does not read. Use the "
        "original model, in bfloat16, float16 or float32, or a GGUF file of it (`swarm models import`); a node holds "
        "its layers in fewer bits with --quantize int8 or int4"
    )


def _layer_types(text: Mapping[str, Any], layers: int, window: int | None) -> tuple[str, ...]:
    """Return each layer's kind: as listed, or by the rule of families that leave the list out."""
    listed = text.get("layer_types")
    if listed is not None:
        if not isinstance(listed, list) or not all(isinstance(kind, str) for kind in listed):
            raise ModelError("config.json: layer_types is not a list of names")
        if len(listed) < layers:
            raise ModelError(f"config.json: layer_types names {len(listed)} layers of {layers}")
        return tuple(listed[:layers])
    if every := _count(text, "full_attention_interval", default=0):
        return _every(layers, every, "linear_attention")
    if window is None or text.get("use_sliding_window") is False:
        return ("full_attention",) * layers
    if every := _pattern(text):
        return _every(layers, every, "sliding_attention")
    first = _count(text, "max_window_layers", default=0, least=0) if text.get("use_sliding_window") else 0
    return ("full_attention",) * min(first, layers) + ("sliding_attention",) * max(layers - first, 0)


def _kv_numbers(
    text: Mapping[str, Any], kinds: tuple[str, ...], head_dim: int, heads: int
) -> tuple[int, ...]:
    """Return each layer's keys and values of a token; single layers may differ from the rest (Gemma 4)."""
    single = text.get("per_layer_config")
    shared = _count(text, "num_kv_shared_layers", default=0, least=0)
    numbers = []
    for layer, kind in enumerate(kinds):
        own = single.get(str(layer), {}) if isinstance(single, Mapping) else {}
        if kind == "full_attention" and single is None and "global_head_dim" in text:
            own = {"head_dim": text["global_head_dim"]}
            if text.get("attention_k_eq_v"):
                own["num_key_value_heads"] = text.get("num_global_key_value_heads")
        if not isinstance(own, Mapping):
            raise ModelError(f"config.json: per_layer_config of layer {layer} is not an object")
        reads_another = layer >= len(kinds) - shared
        size = (
            2 * _count(own, "head_dim", default=head_dim) * _count(own, "num_key_value_heads", default=heads)
        )
        numbers.append(0 if kind == "linear_attention" or reads_another else size)
    return tuple(numbers)


def _pattern(text: Mapping[str, Any]) -> int:
    """Return p where all but every p-th layer attend to a window only; 0: all do."""
    family = str(text.get("model_type", "")).removesuffix("_text")
    default = {"gemma2": 2, "gemma3": 6, "cohere2": 4, "gpt_oss": 2}.get(family, 0)
    return _count(text, "sliding_window_pattern", default=default)


def _every(layers: int, pattern: int, other: str) -> tuple[str, ...]:
    return tuple(other if (layer + 1) % pattern else "full_attention" for layer in range(layers))
