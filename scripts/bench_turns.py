#!/usr/bin/env python3
"""Time to the first token of each turn of a conversation, with kept prefixes and without, side by side in one run.

Two nodes, one conversation a round; every turn sends the whole history again, as chat clients do. With prefix reuse the
time must not grow with the conversation: only the new turn is computed, on every hop.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from pathlib import Path

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_serving import settings_file
from swarm.cli.streams import StreamResult, stream
from tests.support.swarm_process import MODEL, swarm_of

SAYS = "Round {round}, turn {turn}: go on with the story of the lighthouse and the ship, and name all who are in it."


async def converse(url: str, number: int, turns: int, tokens: int) -> list[StreamResult]:
    """Hold one conversation; its first words differ from every other's."""
    history: list[dict[str, str]] = []
    results = []
    for turn in range(turns):
        history.append({"role": "user", "content": SAYS.format(round=number, turn=turn)})
        body = {
            "model": MODEL,
            "messages": history,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_completion_tokens": tokens,
            "ignore_eos": True,
        }
        results.append(await stream(url, body))
        history.append({"role": "assistant", "content": results[-1].text})
    return results


def measure(share: float, args: argparse.Namespace) -> list[list[StreamResult]]:
    """Return what each turn was like: one list of rounds a turn."""
    settings = settings_file(0, [f"engine.prefix_share = {share}"])
    with swarm_of(
        args.spans,
        doors=[True, *[False] * (len(args.spans) - 1)],
        dtype=args.dtype,
        extra=["--config", str(settings)],
    ) as swarm:
        url = swarm.nodes[0].url
        asyncio.run(converse(url, 99, 1, 8))
        rounds = [
            asyncio.run(converse(url, number, args.turns, args.tokens)) for number in range(args.repeats)
        ]
    return [list(turn) for turn in zip(*rounds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", nargs="+", default=["0:11", "11:30"])
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    kept, computed = measure(0.5, args), measure(0.0, args)
    print(
        "time to first token, ms (min / median / max)\nturn   cached tokens   with kept prefixes       without"
    )
    for turn, (new, old) in enumerate(zip(kept, computed, strict=True), 1):
        cached = statistics.median(result.cached_tokens for result in new)
        print(f"{turn:4}   {cached:13.0f}   {_spread(new):22}   {_spread(old)}")


def _spread(turn: list[StreamResult]) -> str:
    times = [1e3 * result.ttft for result in turn]
    return f"{min(times):.0f} / {statistics.median(times):.0f} / {max(times):.0f}"


if __name__ == "__main__":
    main()
