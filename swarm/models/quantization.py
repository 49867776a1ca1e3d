"""How many bytes weights take when a node holds them in fewer bits. Knows shapes, no tensors.

Every matrix of a decoder layer is quantised, by itself and whatever its family; norms, biases, convolutions and the
model's ends keep the dtype that is computed in.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.models.manifest import layer_of
from swarm.types import QUANTIZATIONS

GROUP = 32
"""Consecutive inputs that share a scale and a zero, with 4 bits."""

_KEPT = ("bias", "norm", "conv", "router", "mlp.gate.weight", "A_log", "sinks")
"""Parts of tensor names that are no matrix products of whole layers: small, or not linear."""


SCALES = "_scale_inv"
"""Behind the name of a weight that a checkpoint stores in fp8: the name of its scales."""


def matrix_bytes(shape: Sequence[int], itemsize: int, quantize: str) -> int:
    """Return the bytes of a matrix [out, in] whose scales have ``itemsize`` bytes; 4 bits need whole groups."""
    rows, columns = shape
    if quantize == "int4" and columns % GROUP == 0:
        return rows * columns // 2 + 2 * (rows * columns // GROUP) * itemsize
    if quantize in QUANTIZATIONS and quantize != "none":
        return rows * columns + rows * itemsize
    return rows * columns * itemsize


def held_tensor_bytes(name: str, shape: Sequence[int], itemsize: int, quantize: str) -> int:
    """Estimate the bytes of a checkpoint's tensor once it is loaded in a dtype of ``itemsize`` and quantised.

    An upper estimate: what its name does not show to be a layer's matrix counts in full.
    """
    count = 1
    for size in shape:
        count *= size
    if (
        quantize == "none"
        or len(shape) not in (2, 3)
        or layer_of(name) is None
        or any(k in name for k in _KEPT)
    ):
        return count * itemsize
    experts = count // (shape[-1] * shape[-2])
    either_way = [matrix_bytes(sides, itemsize, quantize) for sides in (shape[-2:], shape[:-3:-1])]
    return experts * max(either_way)
