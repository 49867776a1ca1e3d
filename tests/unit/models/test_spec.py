"""What a config.json says of a model, for the families of transformers and for files that are wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import AutoConfig

from swarm.errors import ModelError
from swarm.models.spec import ModelSpec
from tests.support.model_folders import CONFIG

FAMILIES = [
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "qwen3_5_text",
    "phi3",
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "smollm3",
    "olmo2",
    "granite",
    "glm4",
    "cohere2",
    "ministral",
    "gpt2",
]


def _saved(config: Any) -> dict[str, Any]:
    """Return the contents of the config.json that transformers would write."""
    return json.loads(config.to_json_string(use_diff=False))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_spec_agrees_with_the_config_class_of_the_family(family: str) -> None:
    config = AutoConfig.for_model(family)
    spec = ModelSpec.from_config(_saved(config))
    assert spec.model_type == family
    assert spec.layers == config.num_hidden_layers
    assert spec.hidden_size == config.hidden_size
    assert spec.vocab_size == config.vocab_size
    assert spec.num_attention_heads == config.num_attention_heads
    assert spec.num_key_value_heads == (
        getattr(config, "num_key_value_heads", None) or spec.num_attention_heads
    )
    assert spec.tied_embeddings == config.tie_word_embeddings
    assert spec.context_tokens >= config.max_position_embeddings
    if head_dim := getattr(config, "head_dim", None):
        assert spec.head_dim == head_dim
    if listed := getattr(config, "layer_types", None):
        assert spec.layer_types == tuple(listed)
    assert len(spec.layer_types) == spec.layers


@pytest.mark.parametrize(
    "family", [f for f in FAMILIES if f not in ("smollm3", "ministral", "olmo2", "granite")]
)
def test_layer_types_that_a_file_leaves_out_follow_the_rule_of_the_family(family: str) -> None:
    config = AutoConfig.for_model(family)
    listed = getattr(config, "layer_types", None)
    saved = {key: value for key, value in _saved(config).items() if key != "layer_types"}
    if family == "qwen3_5_text":
        saved["full_attention_interval"] = 4
    spec = ModelSpec.from_config(saved)
    if listed:
        assert spec.layer_types == tuple(listed)
    else:
        kind = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
        assert set(spec.layer_types) == {kind}


def test_the_language_model_of_a_multimodal_config_is_its_text_config() -> None:
    spec = ModelSpec.from_config(
        {"model_type": "llava", "eos_token_id": 7, "text_config": CONFIG, "dtype": "float16"}
    )
    assert (spec.model_type, spec.layers, spec.dtype, spec.eos_token_ids) == ("llama", 4, "float16", (7,))


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ({"type": "linear", "factor": 2.0}, 256),
        ({"rope_type": "dynamic", "factor": 2.0}, 256),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}, 128),
        ({"type": "longrope", "factor": 32.0}, 128),
        (
            {
                "full_attention": {"rope_type": "linear", "factor": 8.0},
                "sliding_attention": {"rope_type": "default"},
            },
            1024,
        ),
        (None, 128),
    ],
)
def test_rope_scaling_extends_the_context_where_it_does_in_transformers(rope: Any, context: int) -> None:
    assert ModelSpec.from_config(CONFIG | {"rope_scaling": rope}).context_tokens == context


def test_gemma3_counts_its_scaling_in_the_stated_context() -> None:
    scaled = CONFIG | {"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    assert ModelSpec.from_config(scaled).context_tokens == 128


def test_longrope_switches_at_the_original_context():
    config = CONFIG | {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}
    assert ModelSpec.from_config(config).switch_tokens == 4096
    inside = {"rope_type": "longrope", "original_max_position_embeddings": 64}
    assert ModelSpec.from_config(CONFIG | {"rope_parameters": inside}).switch_tokens == 64
    assert ModelSpec.from_config(CONFIG | {"rope_parameters": {"rope_type": "yarn"}}).switch_tokens == 0


def test_eos_ids_may_be_one_or_several_or_none() -> None:
    for value, ids in ((None, ()), (2, (2,)), ([5, 2], (2, 5))):
        assert ModelSpec.from_config(CONFIG | {"eos_token_id": value}).eos_token_ids == ids


def test_what_a_config_leaves_out_comes_from_the_caller() -> None:
    spec = ModelSpec.from_config(CONFIG, default_dtype="bfloat16", default_tied=False)
    assert (spec.dtype, spec.tied_embeddings) == ("bfloat16", False)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "mxfp4", "compressed-tensors", "fp8"])
def test_a_quantised_checkpoint_is_refused_with_its_method_and_what_to_use(method: str) -> None:
    quantised = {"quantization_config": {"quant_method": method, "bits": 4}}
    for config in (CONFIG | quantised, {"model_type": "llava", "text_config": CONFIG | quantised}):
        with pytest.raises(ModelError, match=f"quantised already .{method}.*original model.*--quantize"):
            ModelSpec.from_config(config)


def test_fp8_with_a_scale_for_each_block_is_read() -> None:
    found = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    assert ModelSpec.from_config(CONFIG | {"quantization_config": found}).layers == 4
    for block in ([128], [0, 128], "128", None):
        with pytest.raises(ModelError, match="quantised already"):
            ModelSpec.from_config(CONFIG | {"quantization_config": found | {"weight_block_size": block}})


def test_code_that_transformers_has_by_the_same_name_is_not_needed() -> None:
    names = {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    }
    spec = ModelSpec.from_config(CONFIG | {"model_type": "phi3", "auto_map": names})
    assert spec.model_type == "phi3"
    other = names | {"AutoModelForCausalLM": "modeling_phi3.MyPhi3ForCausalLM"}
    for model_type, auto_map in (("phi3", other), ("llama", names), ("phi5", names)):
        with pytest.raises(ModelError, match=f"auto_map: models of type '{model_type}'"):
            ModelSpec.from_config(CONFIG | {"model_type": model_type, "auto_map": auto_map})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}, "auto_map"),
        ({"text_config": {**CONFIG, "auto_map": {"AutoConfig": "x.Y"}}}, "auto_map"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"hidden_size": "576"}, "hidden_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
        ({"model_type": None}, "model_type"),
        ({"dtype": "int3"}, "dtype"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": "full_attention"}, "layer_types"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"text_config": []}, "text_config"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_by_the_name_of_its_fault(
    change: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelError, match=named):
        ModelSpec.from_config(CONFIG | change)
