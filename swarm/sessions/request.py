"""What is to be answered, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.types import ModelId, NodeId, SessionId


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be answered. ``deadline`` and ``admission_until`` are absolute, on the caller's clock."""

    origin: NodeId
    session: SessionId
    model: ModelId
    prompt: tuple[int, ...]
    max_tokens: int
    context_tokens: int
    hidden_size: int
    stop_ids: frozenset[int]
    deadline: float
    admission_until: float
    hold_seconds: float = float("inf")
    """How long an answer that has begun may stand without any path before it fails."""
    score_prompt: bool = False
    """Tell the log-probability of every token of the prompt but the first; no prefix is reused then."""
    switch_tokens: int = 0
    """Beyond so many tokens all keys are turned by other factors (longrope); 0: never."""

    @property
    def limit(self) -> int:
        """Tokens this answer may have: its budget or what the context leaves."""
        return min(self.max_tokens, self.context_tokens - len(self.prompt))
