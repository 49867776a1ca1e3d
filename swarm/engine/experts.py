"""Mixtures of experts whose matrices are made into products one by one, so that they can be quantised.

transformers keeps the experts of a layer in one tensor each for up and down; most of such a model's bytes are there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from swarm.engine.kernels import Kernel, Maker, plain, same

_CHECK_ROWS = 5


class _Experts:
    """The forward of one layer's experts: for each that some row chose, up, gate, down, and the row's share."""

    def __init__(self, module: Any, make: Maker) -> None:
        self._gate: Callable[[torch.Tensor], torch.Tensor] = module._apply_gate
        self._up = _products(module, "gate_up_proj", make)
        self._down = _products(module, "down_proj", make)

    def __call__(self, hidden: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Return [rows, hidden] for rows [rows, hidden] and the experts of each, [rows, experts a row]."""
        out = torch.zeros_like(hidden)
        for expert in chosen.unique().tolist():
            if expert >= len(self._up):  # stands for no expert
                continue
            rows, places = torch.where(chosen == expert)
            result = self._down[expert](self._gate(self._up[expert](hidden[rows])))
            out.index_add_(0, rows, (result * shares[rows, places, None]).to(out.dtype))
        return out


def _products(module: Any, name: str, make: Maker) -> list[Kernel]:
    stacked = getattr(module, name).detach()
    biases = getattr(module, f"{name}_bias", None)
    return [
        make(
            weight.T.contiguous() if module.is_transposed else weight,
            None if biases is None else biases[expert].detach().clone(),
        )
        for expert, weight in enumerate(stacked)
    ]


def separable_experts(root: nn.Module) -> list[nn.Module]:
    """Return the modules below ``root`` that hold experts whose results ``_Experts`` gives."""
    return [module for module in root.modules() if _has_shape(module) and _gives_the_same(module)]


def stacked_matrices(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the parameters that hold the experts' matrices, [experts, …, …] each."""
    return module.gate_up_proj, module.down_proj


def replace_experts(module: Any, make: Maker) -> None:
    """Let ``make``'s products compute one of separable_experts; its own matrices go."""
    module.forward = _Experts(module, make)
    del module.gate_up_proj, module.down_proj


def _has_shape(module: Any) -> bool:
    return (
        hasattr(module, "is_transposed")
        and hasattr(module, "_apply_gate")
        and getattr(module, "has_gate", False)
        and not getattr(module, "has_post_expert_norm", False)
        and all(getattr(module, name, torch.empty(0)).dim() == 3 for name in ("gate_up_proj", "down_proj"))
    )


def _gives_the_same(module: Any) -> bool:
    """Run a few rows through the family's own code and through this, with torch's products."""
    up = module.gate_up_proj
    experts, hidden = up.shape[0], up.shape[1 if module.is_transposed else 2]
    rows = torch.arange(1, _CHECK_ROWS * hidden + 1, device=up.device) * 0.7
    rows = rows.sin().view(_CHECK_ROWS, hidden).to(up.dtype)
    first = torch.arange(_CHECK_ROWS, device=up.device) % experts
    chosen = torch.stack([first, (first + 1) % experts], dim=1)
    shares = torch.full(chosen.shape, 0.5, dtype=up.dtype, device=up.device)
    try:
        return same(_Experts(module, plain)(rows, chosen, shares), module(rows, chosen, shares))
    except (RuntimeError, TypeError, ValueError):  # arguments or shapes that these experts do not have
        return False
