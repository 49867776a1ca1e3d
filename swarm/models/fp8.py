"""Weights stored in fp8 with a scale for each block, turned into plain ones as they are read.

The format of DeepSeek-V3 and of Qwen's and others' "-FP8" checkpoints: beside ``X.weight`` (float8_e4m3fn) stands
``X.weight_scale_inv``, one number for each block of rows and columns. Activations stay what they are: what such a
checkpoint says of quantising them too is left out, which is closer to the original model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from swarm.errors import ModelError
from swarm.models.quantization import SCALES


def plain(tensors: Mapping[str, Any], block: tuple[int, int], dtype: torch.dtype) -> dict[str, Any]:
    """Return ``tensors`` (lazy slices or tensors) without scales, weights that had one multiplied by it, in ``dtype``.

    Raises ModelError for a weight in fp8 without its scale.
    """
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALES):
            continue
        scales = tensors.get(name + SCALES)
        if scales is not None:
            found[name] = scaled(tensor[:], scales[:], block, name).to(dtype)
        elif str(tensor.get_dtype() if hasattr(tensor, "get_dtype") else tensor.dtype) in (
            "F8_E4M3",
            "F8_E5M2",
        ):
            raise ModelError(f"{name} is stored in fp8, but its scale {name}{SCALES} is missing")
        else:
            found[name] = tensor
    return found


def scaled(weight: torch.Tensor, scales: torch.Tensor, block: tuple[int, int], name: str) -> torch.Tensor:
    """Return float32 [rows, columns] of ``weight`` with the scale of each block, [blocks down, blocks across]."""
    rows, columns = weight.shape
    if tuple(scales.shape) != (-(-rows // block[0]), -(-columns // block[1])):
        raise ModelError(
            f"{name}: scales of {tuple(scales.shape)} do not fit blocks of {block} in {rows} x {columns}"
        )
    down = scales.float().repeat_interleave(block[0], 0)[:rows]
    return weight.float() * down.repeat_interleave(block[1], 1)[:, :columns]
