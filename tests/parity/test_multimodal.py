"""The language model inside a multimodal one: its tensors lie deeper, its settings in a part of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from swarm.models.store import ModelStore
from swarm.types import LayerSpan
from tests.support.answers import Answer
from tests.support.families import VOCABULARY, settings
from tests.support.models import Reference, disturb_norms, running

ROUTE = [LayerSpan(0, 2), LayerSpan(2, 5), LayerSpan(5, 6)]
TOKENS = 8
SIGHT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
WHOLES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "gemma3_text",
        {"vision_config": {"model_type": "siglip_vision_model", **SIGHT}, "mm_tokens_per_image": 4},
    ),
    "gemma4": (
        "gemma4_text",
        {"vision_config": {**SIGHT, "num_key_value_heads": 2, "head_dim": 16}, "audio_config": None},
    ),
    "mistral3": ("ministral3", {"vision_config": {"model_type": "pixtral", "head_dim": 16, **SIGHT}}),
    "qwen3_5": (
        "qwen3_5_text",
        {
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_heads": 2,
                "out_hidden_size": 64,
                "num_position_embeddings": 16,
            }
        },
    ),
}


@pytest.mark.parametrize("whole", sorted(WHOLES))
async def test_text_is_answered_as_by_the_whole_model(whole, tmp_path):
    family, parts = WHOLES[whole]
    text = settings(family)
    if whole == "gemma3":
        text["final_logit_softcapping"] = None  # the multimodal class has none, whatever its settings say
    config = AutoConfig.for_model(
        whole, text_config=AutoConfig.for_model(family, **text).to_dict(), dtype="float32", **parts
    )
    torch.manual_seed(3)
    model = AutoModelForImageTextToText.from_config(config).eval()
    disturb_norms(model)
    model.save_pretrained(tmp_path / whole)
    local = ModelStore(tmp_path / "home").find(str(tmp_path / whole))
    reference = Reference(local, model)
    prompts = [[2 + (7 * index) % (VOCABULARY - 2) for index in range(length)] for length in (5, 23)]
    async with running(local, ROUTE, "float32") as driver:
        answers = [Answer(prompt, ROUTE, TOKENS, chunk=11) for prompt in prompts]
        await driver.run(answers)
    for answer in answers:
        tokens, logits = reference.greedy(answer.prompt, TOKENS)
        assert float(logits.abs().max()) > 0.1
        assert answer.accepted == tokens
        torch.testing.assert_close(reference.logits_of(answer.outputs), logits, atol=1e-4, rtol=0)
