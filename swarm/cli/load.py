"""Many answers at once from one front door, and what their times come to. Prints nothing."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from swarm.cli.streams import StreamError, StreamResult, stream

CHAT_OVERHEAD = 30
"""About what a chat template adds to a prompt, in tokens."""
ROUND_SECONDS = 600.0
_WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "seven",
    "wise",
    "owls",
    "near",
    "an",
    "old",
    "oak",
    "tree",
]


def prompt_of(tokens: int, number: int) -> str:
    """About ``tokens`` tokens of text, template included; other ones for each ``number``: no prefix is shared."""
    words = (
        _WORDS[(number * 7 + at * (number + 1)) % len(_WORDS)] for at in range(max(1, tokens - CHAT_OVERHEAD))
    )
    return f"{number} " + " ".join(words)


def percentile(values: list[float], share: float) -> float:
    """Return the value that ``share`` of them don't exceed; 0 when there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(frozen=True, slots=True)
class Round:
    """What so many streams at once came to; times in seconds."""

    streams: int
    results: list[StreamResult]
    errors: list[str]
    wall: float

    @property
    def tokens(self) -> int:
        return sum(result.tokens for result in self.results)

    @property
    def rate(self) -> float:
        """Tokens a second of all streams together, from the first token of all to the end of the last answer."""
        if not self.results:
            return 0.0
        first = min(result.ttft for result in self.results)
        return sum(result.tokens - 1 for result in self.results) / max(self.wall - first, 1e-9)

    def summary(self) -> dict[str, Any]:
        """Return what is reported of the round, as JSON values; milliseconds and tokens a second."""
        ttft = [result.ttft for result in self.results]
        gaps = [gap for result in self.results for gap in result.gaps]
        rates = [result.rate for result in self.results]
        return {
            "streams": self.streams,
            "answers": len(self.results),
            "prompt_tokens": round(statistics.median(r.prompt_tokens for r in self.results)) if ttft else 0,
            "tokens": self.tokens,
            "ttft_ms": _milliseconds(ttft),
            "tpot_ms": _milliseconds([1 / rate for rate in rates if rate]),
            "inter_token_ms": _milliseconds(gaps),
            "tokens_per_second": {
                "a_stream": round(statistics.median(rates), 2) if rates else 0.0,
                "slowest_stream": round(min(rates, default=0.0), 2),
                "in_all": round(self.rate, 2),
            },
            "errors": self.errors,
        }


async def drive(
    url: str,
    model: str,
    *,
    streams: int,
    prompt_tokens: int,
    tokens: int,
    salt: int = 0,
    key: str = "",
    on_read: Callable[[], None] | None = None,
) -> Round:
    """Ask for ``streams`` answers at once, greedy and of just ``tokens`` tokens where the server knows ignore_eos.

    ``salt`` makes prompts that no earlier round had. An answer that fails is an error of the round.
    """
    errors: list[str] = []

    async def one(number: int) -> StreamResult | None:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt_of(prompt_tokens, salt * 1000 + number)}],
            "stream": True,
            "temperature": 0,
            "max_completion_tokens": tokens,
            "ignore_eos": True,
            "stream_options": {"include_usage": True},
        }
        try:
            # A limit of the client's own: a server's keepalives would hold it for ever.
            async with asyncio.timeout(ROUND_SECONDS):
                return await stream(url, body, key=key, on_read=on_read)
        except StreamError as exc:
            errors.append(str(exc))
        except TimeoutError:
            errors.append(f"no whole answer within {ROUND_SECONDS:.0f} s")
        return None

    started = time.perf_counter()
    answers = await asyncio.gather(*(one(number) for number in range(streams)))
    wall = time.perf_counter() - started
    return Round(streams, [answer for answer in answers if answer is not None], errors, wall)


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    return {name: round(percentile(seconds, share) * 1e3, 2) for name, share in (("p50", 0.5), ("p99", 0.99))}
