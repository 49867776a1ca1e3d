"""How far off predictions are: answers of real nodes over what their path was predicted to take.

    python scripts/bench_prediction.py [--nodes 1,2,3] [--answers 5] [--dtype bfloat16]

For each number of nodes a swarm of its own, even spans, on loopback. Answers of one short and one long prompt follow
each other, alone in the swarm. The ratio of each is what it added to swarm_prediction_ratio in /metrics: 1 is as
predicted, 2 took twice as long. Figures: min, median, max.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import sys
import time
import urllib.request
from pathlib import Path

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarm.cli.streams import stream
from tests.support.swarm_process import MODEL, swarm_of

LAYERS = 30
TOKENS = 64
SETTLE_SECONDS = 18.0
"""Nodes measure themselves again when they are idle: here they all loaded at once on one machine."""
_SAMPLE = re.compile(r'^swarm_prediction_ratio_sum\{what="(\w+)"\} (\S+)', re.MULTILINE)


def sums(url: str) -> dict[str, float]:
    """Return the sum of all ratios so far, by what they are of."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        found = _SAMPLE.findall(answer.read().decode())
    return {what: float(value) for what, value in found}


def measure(nodes: int, answers: int, dtype: str) -> None:
    spans = [f"{i * LAYERS // nodes}:{(i + 1) * LAYERS // nodes}" for i in range(nodes)]
    doors = [True] + [False] * (nodes - 1)
    # Guessed tokens make answers faster than any path is predicted.
    with swarm_of(spans, doors=doors, dtype=dtype, settings="[session]\ndraft_tokens = 0\n") as swarm:
        url = swarm.nodes[0].url
        time.sleep(SETTLE_SECONDS)
        print(f"{nodes} nodes, {dtype}, {answers} answers of each prompt (min / median / max)", flush=True)
        for words, what in ((6, "short"), (400, "long")):
            ratios: dict[str, list[float]] = {"first_token": [], "token": []}
            for number in range(answers + 1):
                before = sums(url)
                content = f"{number} says: " + "waves and wind " * (words // 3)
                body = {
                    "model": MODEL, "stream": True, "temperature": 0, "max_tokens": TOKENS, "ignore_eos": True,
                    "messages": [{"role": "user", "content": content}],
                }  # fmt: skip
                asyncio.run(stream(url, body))
                after = sums(url)
                if number:  # the first one warms up
                    for kind, values in ratios.items():
                        values.append(after[kind] - before.get(kind, 0.0))
            for kind, values in ratios.items():
                shown = " / ".join(f"{v:.2f}" for v in (min(values), statistics.median(values), max(values)))
                print(f"  {what} prompt, {kind}: {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", default="1,2,3")
    parser.add_argument("--answers", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    for nodes in map(int, given.nodes.split(",")):
        measure(nodes, given.answers, given.dtype)


if __name__ == "__main__":
    main()
