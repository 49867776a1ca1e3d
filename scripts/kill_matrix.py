#!/usr/bin/env python3
"""Kill every hop of a path at every step of an answer, and see what its client hears (F1 of docs/reliability.md).

Starts a front door and two holders of each of three spans of the default model in float32 on loopback. For each hop
and step it streams an answer, kills the hop's process by SIGKILL when that many texts have come, compares the text with
the undisturbed one, and starts the node again. Half of the answers are greedy, half seeded. Ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx

from tests.support.streams import Heard, body_of, hear, percentile
from tests.support.swarm_process import MODEL, NodeProcess, SwarmProcesses, swarm_of, wait_for

SPANS = ("0:10", "10:20", "20:30")
MIDDLES = (5, 15, 25)
QUESTIONS = (
    "List two animals that can fly, and say why each of them can.",
    "Explain in plain words what a lighthouse is good for.",
    "Write a short letter to a friend about the weather of last week.",
)

PIECES = 2
"""Tokens an answer for each step: steps are counted in pieces of text, and a piece may hold several tokens."""


@dataclass
class Case:
    """One kill. Times in seconds; ``first`` is the undisturbed time to the first token."""

    hop: int
    step: int
    seeded: bool
    equal: bool
    whole: bool
    tokens: int
    pause: float
    rerouted: float | None
    first: float
    recoveries: int


class Matrix:
    """The swarm under test and what its answers are when nobody is killed."""

    def __init__(self, swarm: SwarmProcesses, tokens: int, prompt_tokens: int) -> None:
        self._swarm = swarm
        self._door = swarm.nodes[0]
        self._tokens = tokens
        self._prompt_tokens = prompt_tokens
        self._texts: dict[str, str] = {}
        self._client = httpx.AsyncClient()

    def body(self, number: int, *, seeded: bool) -> dict[str, Any]:
        question = QUESTIONS[number % len(QUESTIONS)]
        if self._prompt_tokens:
            # A text of its own for each case, so that no replacement has any of it cached.
            words = " ".join(f"{number * 7919 + at * 31:x}" for at in range(self._prompt_tokens // 4))
            question = f"{words} {question}"
        more = {"temperature": 0.8, "seed": 7} if seeded else {}
        return body_of(MODEL, question, self._tokens, **more)

    async def undisturbed(self, body: dict[str, Any]) -> str:
        name = json.dumps(body)
        if name not in self._texts:
            heard = await hear(self._client, self._door.url, body)
            if not heard.whole:
                raise RuntimeError(f"an undisturbed answer failed: {heard}")
            self._texts[name] = heard.text
        return self._texts[name]

    async def case(self, number: int, hop: int, step: int) -> Case:
        span, seeded = SPANS[hop], number % 2 == 1
        await asyncio.to_thread(
            wait_for, f"two holders of {span}", lambda: self._swarm.holders(self._door, span) >= 2
        )
        body = self.body(number, seeded=seeded)
        if not self._prompt_tokens:
            await self.undisturbed(body)
        killed: list[tuple[NodeProcess, float]] = []

        def kill(count: int, heard: Heard) -> None:
            if count == step and not killed:
                victim = self._swarm.on_route(heard.route, MIDDLES[hop])
                killed.append((victim, time.time()))
                victim.kill()

        asked = time.monotonic()
        heard = await hear(self._client, self._door.url, body, kill)
        if not killed:
            raise RuntimeError(f"the answer ended before text {step}: {heard}")
        victim, at = killed[0]
        victim.start()
        text = await self.undisturbed(body)
        return Case(
            hop=hop,
            step=step,
            seeded=seeded,
            equal=heard.text == text,
            whole=heard.whole and heard.finish == ["length"],
            tokens=heard.usage.get("completion_tokens", 0),
            pause=heard.pause if step else (heard.times[0] - asked if heard.times else 0.0),
            rerouted=self._rerouted_after(at),
            first=heard.times[0] - asked if heard.times else 0.0,
            recoveries=len([moment for moment in self._door.reroutes if moment >= at]),
        )

    def _rerouted_after(self, at: float) -> float | None:
        """From the kill to the log's line about the new path, which has whole milliseconds."""
        return next((max(0.0, moment - at) for moment in self._door.reroutes if moment >= at - 0.002), None)

    async def aclose(self) -> None:
        await self._client.aclose()


async def run(arguments: argparse.Namespace, swarm: SwarmProcesses) -> list[Case]:
    matrix = Matrix(swarm, PIECES * arguments.tokens, arguments.prompt_tokens)
    steps = range(0, arguments.tokens, arguments.every)
    cases = []
    for number, (step, hop) in enumerate((step, hop) for step in steps for hop in range(len(SPANS))):
        case = await matrix.case(number, hop, step)
        cases.append(case)
        rerouted = "-" if case.rerouted is None else f"{case.rerouted:.3f}"
        verdict = "ok" if case.equal and case.whole else "FAILED"
        print(
            f"hop {hop} step {step:2d}: {verdict}, pause {case.pause:.2f} s, rerouted {rerouted} s",
            flush=True,
        )
    await matrix.aclose()
    return cases


def summary(cases: list[Case], tokens: int) -> dict[str, Any]:
    pauses = [case.pause for case in cases]
    reroutes = [case.rerouted for case in cases if case.rerouted is not None]
    return {
        "cases": len(cases),
        "texts equal": sum(case.equal for case in cases),
        "answers whole": sum(case.whole and case.tokens == tokens for case in cases),
        "pause p50 / p99 / max (s)": [
            round(value, 3) for value in (percentile(pauses, 0.5), percentile(pauses, 0.99), max(pauses))
        ],
        "rerouted p50 / max (s)": [round(percentile(reroutes, 0.5), 3), round(max(reroutes, default=0.0), 3)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=24, help="steps to kill at; an answer is twice as long")
    parser.add_argument("--every", type=int, default=1, help="take only every so many-th step")
    parser.add_argument(
        "--prompt-tokens", type=int, default=0, help="about so many tokens before the question"
    )
    parser.add_argument("--json", type=Path, help="write all cases to this file")
    arguments = parser.parse_args()
    from _model import ensure_default_model

    ensure_default_model()
    with swarm_of(["none", *SPANS, *SPANS], doors=[True] + [False] * 6) as swarm:
        cases = asyncio.run(run(arguments, swarm))
    found = summary(cases, PIECES * arguments.tokens)
    for name, value in found.items():
        print(f"{name}: {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**found, "all": [asdict(case) for case in cases]}, indent=1))
    return 0 if found["texts equal"] == found["answers whole"] == len(cases) else 1


if __name__ == "__main__":
    raise SystemExit(main())
