from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm.errors import ModelError
from swarm.models.architecture import load_config
from swarm.models.ends import load_ends
from swarm.models.loader import load_span, sub_span
from swarm.types import LayerSpan


@pytest.fixture
def copied(tiny_llama, tmp_path):
    """A copy of the tiny model that a test may damage."""
    return shutil.copytree(tiny_llama.folder, tmp_path / "copy")


def weight_map(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def test_only_the_files_of_the_held_layers_are_opened(copied):
    files = weight_map(copied)
    needed = {file for key, file in files.items() if ".layers.1." in key or ".layers.2." in key}
    for file in set(files.values()) - needed:
        (copied / file).unlink()
    base = load_span(copied, LayerSpan(1, 3), "float32")
    held = sum(tensor.nbytes for tensor in base.parameters())
    whole = sum(tensor.nbytes for file in needed for tensor in load_file(copied / file).values())
    assert 0 < held <= whole
    with pytest.raises(ModelError):
        load_span(copied, LayerSpan(0, 1), "float32")


def test_a_missing_tensor_refuses_the_span_and_names_it(copied):
    index = copied / "model.safetensors.index.json"
    files = weight_map(copied)
    del files["model.layers.2.mlp.up_proj.weight"]
    index.write_text(json.dumps({"weight_map": files}))
    with pytest.raises(ModelError, match="up_proj"):
        load_span(copied, LayerSpan(1, 4), "float32")
    load_span(copied, LayerSpan(0, 2), "float32")


def test_a_tensor_left_over_refuses_the_span(copied):
    file = copied / weight_map(copied)["model.layers.1.mlp.up_proj.weight"]
    tensors = load_file(file)
    save_file({**tensors, "model.layers.1.mlp.surplus.weight": torch.zeros(2)}, file, {"format": "pt"})
    files = weight_map(copied) | {"model.layers.1.mlp.surplus.weight": file.name}
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(ModelError, match="surplus"):
        load_span(copied, LayerSpan(0, 4), "float32")


@pytest.mark.parametrize("left", [0.6, 0.01])
def test_a_file_that_is_cut_short_refuses_the_span_and_is_named(copied, left):
    file = copied / weight_map(copied)["model.layers.1.mlp.up_proj.weight"]
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * left)])
    with pytest.raises(ModelError, match=f"{file.name} is damaged or cut short"):
        load_span(copied, LayerSpan(0, 4), "float32")


def test_ends_in_a_file_that_is_cut_short_are_refused_and_the_file_is_named(copied):
    file = copied / weight_map(copied)["model.embed_tokens.weight"]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
    with pytest.raises(ModelError, match=f"{file.name} is damaged or cut short"):
        load_ends(copied, "float32")


def test_a_header_that_was_tampered_with_is_refused(copied):
    file = copied / weight_map(copied)["model.layers.1.mlp.up_proj.weight"]
    content = bytearray(file.read_bytes())
    content[8:16] = b"not json"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=f"{file.name} is damaged"):
        load_span(copied, LayerSpan(0, 4), "float32")


def test_a_tensor_of_the_wrong_shape_refuses_the_span(copied):
    file = copied / weight_map(copied)["model.layers.1.mlp.up_proj.weight"]
    save_file(
        load_file(file) | {"model.layers.1.mlp.up_proj.weight": torch.zeros(3, 5)}, file, {"format": "pt"}
    )
    with pytest.raises(ModelError, match="up_proj"):
        load_span(copied, LayerSpan(0, 4), "float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t5"}, "t5"),
        ({"quantization_config": {"quant_method": "fp8", "bits": 8}}, "quantised already"),
        ({"model_type": "no_such_family"}, "config.json"),
    ],
)
def test_models_that_can_not_be_split_are_refused(copied, change, message):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        load_config(copied)


def test_a_span_beyond_the_last_layer_and_a_strange_dtype_are_refused(tiny_llama):
    with pytest.raises(ModelError):
        load_span(tiny_llama.folder, LayerSpan(2, 5), "float32")
    with pytest.raises(ModelError):
        load_span(tiny_llama.folder, LayerSpan(0, 2), "int8")
    base = load_span(tiny_llama.folder, LayerSpan(1, 3), "float32")
    with pytest.raises(ModelError):
        sub_span(base, LayerSpan(1, 3), LayerSpan(0, 2))


def test_the_ends_read_embedding_rows_in_the_wanted_dtype(tiny_llama):
    files = weight_map(tiny_llama.folder)
    table = load_file(tiny_llama.folder / files["model.embed_tokens.weight"])["model.embed_tokens.weight"]
    for dtype in ("float32", "bfloat16"):
        ends = load_ends(tiny_llama.folder, dtype)
        wanted = table[[5, 0, 95]].to(getattr(torch, dtype))
        torch.testing.assert_close(ends.embedding([5, 0, 95]), wanted, rtol=0, atol=0)
