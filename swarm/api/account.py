"""What one request came to: for the log, the counters and the timing header. Holds numbers and names, never text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from swarm.node.front import Generation

Operation = Literal["", "chat", "text_completion"]
"""Of OpenTelemetry's conventions for generative AI; empty for a request that generates nothing."""


@dataclass(slots=True)
class Account:
    """Filled while the request is answered. Moments are of the event loop's clock, in seconds."""

    began: float = 0.0
    operation: Operation = ""
    model: str = ""
    streamed: bool = False
    asked_at: float | None = None
    """When its prompt was ready and a path was asked for."""
    opened_at: float | None = None
    first_token_at: float | None = None
    error: str = ""
    """The code of what ended an answer whose status had been sent."""
    generations: Sequence[Generation] = ()
    finished: list[str] = field(default_factory=list)
    """Why each choice ended."""

    def route(self) -> str:
        """The path of the first choice, as the x-swarm-route header says it."""
        return ", ".join(map(str, self.generations[0].route)) if self.generations else ""

    def told(self, now: float) -> dict[str, Any]:
        """Return what the log says of an answer; empty when there was none."""
        if not self.operation:
            return {}
        stats = [generation.stats for generation in self.generations]
        fields: dict[str, Any] = {"operation": self.operation, "model": self.model, "stream": self.streamed}
        if stats:
            fields |= {
                "route": self.route(),
                "prompt_tokens": stats[0].prompt_tokens,
                "cached_tokens": stats[0].cached_tokens,
                "completion_tokens": sum(each.completion_tokens for each in stats),
                "recoveries": sum(each.recoveries for each in stats),
                "finish": ",".join(self.finished),
            }
        fields |= {name: round(seconds, 4) for name, seconds in self._spans(now).items()}
        return fields | ({"error": self.error} if self.error else {})

    def timing(self, now: float) -> str:
        """Return a Server-Timing header: what has passed when the answer's first byte leaves, in milliseconds."""
        parts = [f"{name};dur={seconds * 1e3:.1f}" for name, seconds in self._spans(now).items()]
        parts.append(f"total;dur={(now - self.began) * 1e3:.1f}")
        if self.generations:
            generation = self.generations[0]
            stats = generation.stats
            times = zip_longest(stats.hop_compute_seconds, stats.hop_queue_seconds, fillvalue=0.0)
            for at, (hop, (compute, queue)) in enumerate(zip(generation.route, times, strict=False)):
                parts.append(f'hop{at};desc="{hop}";dur={compute * 1e3:.1f}')
                parts.append(f"hop{at}-queue;dur={queue * 1e3:.1f}")
        return ", ".join(parts)

    def _spans(self, now: float) -> Mapping[str, float]:
        """Seconds from the request's arrival: prompt ready, path reserved, first token; each from the one before."""
        moments = {
            "prepare": self.asked_at,
            "reserve": self.opened_at,
            "first_token": self.first_token_at,
        }
        spans: dict[str, float] = {}
        before = self.began
        for name, moment in moments.items():
            if moment is None:
                return spans
            spans[name], before = moment - before, moment
        spans["generate"] = now - before
        return spans
