"""Four-bit products by bitsandbytes, where that library is installed and there is a CUDA device. Knows no layers.

Only its 4-bit weights are used: its 8-bit products choose the columns that they compute exactly by all rows at once,
and rows belong to different sessions.
"""

from __future__ import annotations

from typing import Any

import torch

from swarm.engine.kernels import Kernel, plain, same

_CHECK_ROWS = 3


def by_bitsandbytes(weight: torch.Tensor, bias: torch.Tensor | None) -> Kernel | None:
    """Return x -> x @ nf4(weight).T + bias, or None where the library is not there or computes something else."""
    try:
        import bitsandbytes  # optional: there is no reason to install it without such a device

        packed, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4")
        unpacked: Any = bitsandbytes.functional.dequantize_4bit(packed, state)
    except (ImportError, RuntimeError, AttributeError):
        return None

    def product(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = bitsandbytes.matmul_4bit(x, packed.t(), quant_state=state, bias=bias)
        return out

    probe = torch.linspace(-1, 1, _CHECK_ROWS * weight.shape[1], device=weight.device).sin()
    probe = probe.view(1, _CHECK_ROWS, -1).to(weight.dtype)
    try:
        right = same(product(probe), plain(unpacked, bias)(probe))
    except (RuntimeError, AttributeError):
        return None
    return product if right else None
