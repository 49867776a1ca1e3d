"""What can't be split is refused with a reason; what can is tried once."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from swarm.engine import fused, selfcheck
from swarm.engine.selfcheck import ensure_splittable
from swarm.errors import ModelError
from swarm.models.ends import ModelEnds
from tests.support.families import settings


@pytest.fixture
def folder_of(tmp_path):
    """Writes a folder with a configuration only: no weights are needed to say whether a model can be split."""

    def write(family, **changes):
        folder = tmp_path / family
        AutoConfig.for_model(family, **{**settings(family), **changes}).save_pretrained(folder)
        return folder

    return write


def test_what_passed_once_is_not_tried_again(folder_of, tmp_path, monkeypatch):
    folder = folder_of("qwen3")
    ensure_splittable(folder, tmp_path / "checks")
    monkeypatch.setattr(selfcheck, "_compare", lambda *_: pytest.fail("tried again"))
    ensure_splittable(folder, tmp_path / "checks")


@pytest.mark.parametrize("change", [{"num_hidden_layers": 7}, {"rms_norm_eps": 1e-5}])
def test_another_configuration_or_another_transformers_is_tried_anew(
    folder_of, tmp_path, monkeypatch, change
):
    tried = []
    monkeypatch.setattr(selfcheck, "_compare", lambda config, *_: tried.append(config) or "")
    ensure_splittable(folder_of("llama"), tmp_path / "checks")
    ensure_splittable(folder_of("llama", **change), tmp_path / "checks")
    monkeypatch.setattr(selfcheck.transformers, "__version__", "99.0")
    ensure_splittable(folder_of("llama", **change), tmp_path / "checks")
    assert len(tried) == 3


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "doge", "diffllama", "llama4_text"])
def test_families_that_can_not_be_split_are_refused_with_a_reason(family, tmp_path):
    folder = tmp_path / family
    small = {"num_hidden_layers": 2, "vocab_size": 96, "hidden_size": 64, "intermediate_size": 64}
    more = {
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "num_local_experts": 2,
        "pad_token_id": 0,
    }
    AutoConfig.for_model(family, **small, **more).save_pretrained(folder)
    with pytest.raises(ModelError, match=f"models of type '{family}' can't be split into spans") as refused:
        ensure_splittable(folder, tmp_path / "checks")
    assert not str(refused.value).endswith(": ")
    assert not (tmp_path / "checks").exists()


def test_a_lost_scale_of_the_logits_is_seen(folder_of, tmp_path, monkeypatch):
    monkeypatch.setattr(ModelEnds, "finish", lambda self, logits: logits)
    ensure_splittable(folder_of("llama"), tmp_path / "checks")
    for family in ("cohere2", "granite", "gemma2"):
        with pytest.raises(ModelError, match="differ"):
            ensure_splittable(folder_of(family), tmp_path / "checks")


def test_a_window_that_is_not_kept_is_seen(folder_of, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "swarm.engine.stage.LayerKV", lambda heads, dim, window, **rest: selfcheck_layer(heads, dim, rest)
    )
    ensure_splittable(folder_of("llama"), tmp_path / "checks")
    with pytest.raises(ModelError, match="differ"):
        ensure_splittable(folder_of("mistral"), tmp_path / "checks")


def test_a_scale_that_begins_far_on_is_seen_if_it_is_lost(tmp_path, monkeypatch):
    folder = tmp_path / "ministral3"
    AutoConfig.for_model("ministral3", num_hidden_layers=4).save_pretrained(folder)
    ensure_splittable(folder, tmp_path / "checks")
    monkeypatch.setattr(fused, "_looks_at_positions", lambda _attention: False)
    monkeypatch.setattr(fused, "_FAR", fused._CHECK_TOKENS)
    with pytest.raises(ModelError, match="differ"):
        ensure_splittable(folder, tmp_path / "others")


def selfcheck_layer(heads, dim, rest):
    from swarm.engine.kv_pool import LayerKV

    return LayerKV(heads, dim, None, **rest)


def test_the_check_leaves_the_process_s_chance_alone(folder_of, tmp_path):
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    ensure_splittable(folder_of("olmo2"), tmp_path / "checks")
    assert torch.equal(torch.rand(3), wanted)
