"""Checkpoints stored in fp8 with a scale for each block: they are computed with as codes and scales mean."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm.engine.selfcheck import ensure_splittable
from swarm.errors import ModelError
from swarm.models.loader import load_span
from swarm.types import LayerSpan

BLOCK = (16, 24)


def in_fp8(weight):
    """Return a weight in fp8, its scales, and what both together mean."""
    rows, columns = weight.shape
    down, across = -(-rows // BLOCK[0]), -(-columns // BLOCK[1])
    scales = torch.zeros(down, across)
    codes = torch.zeros(rows, columns, dtype=torch.float8_e4m3fn)
    meant = torch.zeros(rows, columns)
    for i in range(down):
        for j in range(across):
            part = (slice(i * BLOCK[0], (i + 1) * BLOCK[0]), slice(j * BLOCK[1], (j + 1) * BLOCK[1]))
            scales[i, j] = weight[part].abs().max() / 448
            codes[part] = (weight[part] / scales[i, j]).to(torch.float8_e4m3fn)
            meant[part] = codes[part].float() * scales[i, j]
    return codes, scales, meant


@pytest.fixture
def stored(tiny_llama, tmp_path):
    """The tiny model in fp8, and what its layers' weights mean."""
    folder = shutil.copytree(tiny_llama.folder, tmp_path / "fp8")
    index = folder / "model.safetensors.index.json"
    files, meant = json.loads(index.read_text())["weight_map"], {}
    for file in sorted(set(files.values())):
        tensors = load_file(folder / file)
        for name, weight in list(tensors.items()):
            if ".layers." in name and weight.dim() == 2:
                tensors[name], tensors[f"{name}_scale_inv"], meant[name] = in_fp8(weight.float())
                files[f"{name}_scale_inv"] = file
        save_file(tensors, folder / file, {"format": "pt"})
    index.write_text(json.dumps({"weight_map": files}))
    config = json.loads((folder / "config.json").read_text())
    told = {"quant_method": "fp8", "weight_block_size": list(BLOCK), "activation_scheme": "dynamic"}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": told}))
    return folder, meant


def test_layers_in_fp8_are_loaded_as_what_codes_and_scales_mean(stored, tmp_path):
    folder, meant = stored
    ensure_splittable(folder, tmp_path / "checks")
    base = load_span(folder, LayerSpan(1, 3), "float32")
    compared = 0
    for name, parameter in base.named_parameters():
        whole = f"model.layers.{int(name.split('.')[1]) + 1}.{name.split('.', 2)[2]}"
        if whole in meant:
            torch.testing.assert_close(parameter.data, meant[whole], rtol=0, atol=0)
            compared += 1
    assert compared == 2 * 7


def test_a_weight_in_fp8_without_its_scales_is_refused_by_name(stored):
    folder, _ = stored
    files = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    lost = "model.layers.1.mlp.up_proj.weight"
    file = folder / files[f"{lost}_scale_inv"]
    tensors = load_file(file)
    del tensors[f"{lost}_scale_inv"], files[f"{lost}_scale_inv"]
    save_file(tensors, file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(ModelError, match=r"mlp\.up_proj\.weight is stored in fp8, but its scale"):
        load_span(folder, LayerSpan(0, 4), "float32")
