"""A model's ends on the compute thread: tokens to rows, rows to logits. Knows nothing of sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from swarm.engine.kernels import best_for, norm
from swarm.engine.quantized import maker
from swarm.engine.team import Tiled
from swarm.errors import EngineError
from swarm.models.ends import ModelEnds


class Ends:
    """Embedding, final norm and head of one model, in one dtype."""

    def __init__(
        self,
        ends: ModelEnds,
        dtype: torch.dtype,
        device: str,
        second_copy_bytes: int = 0,
        *,
        quantize: str = "none",
    ) -> None:
        self.dtype = dtype
        self.device = device
        self.hidden_size = ends.hidden_size
        self.vocabulary = ends.vocabulary
        self.keeps_states = ends.keeps_states
        self._ends = ends
        bias = None if ends.head_bias is None else ends.head_bias.to(device=device, dtype=dtype)
        self._norm = norm(ends.norm)
        weight = ends.head_weight.to(device=device, dtype=dtype)
        self._head = maker(quantize, second_copy=weight.nbytes <= second_copy_bytes)(weight, bias)

    @property
    def weight_bytes(self) -> int:
        return self.vocabulary * self.hidden_size * self.dtype.itemsize

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return [len(tokens), hidden]. Raises EngineError for a token outside the vocabulary."""
        if not tokens or min(tokens) < 0 or max(tokens) >= self.vocabulary:
            raise EngineError(f"token ids must lie in 0..{self.vocabulary - 1}")
        rows: torch.Tensor = self._ends.embedding(tokens)
        return rows

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return [rows, vocabulary] in float32 for rows behind the last layer, scaled as the family does."""
        normed = self._norm(hidden)
        best, _ = best_for(self._head, len(hidden))
        found = best.in_single(normed) if isinstance(best, Tiled) else self._head(normed)
        return self._ends.finish(found).float()
