#!/usr/bin/env python3
"""How long an answer stands still when a span is lost: replay against re-prefill, alternating in one run.

Three spans; the middle one has two holders, and the one that computes is killed (SIGKILL) in the middle of an answer.
Two front doors share the hops: one recovers by replay, the other lets every hop compute everything again. The pause is
the longest silence of the stream after the kill; the texts of both must be equal (float32, greedy). Beside it stands
the processor time that all hops spent from the kill to the end: hops on machines of their own prefill at the same
time, so re-prefill costs others more than it costs the answer itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
import psutil

from swarm.cli.load import prompt_of
from tests.support.swarm_process import MODEL, NodeProcess, SwarmProcesses, wait_for

MODES = ("replay", "prefill")
MIDDLE = "10:20"


def stream(
    door: NodeProcess, prompt: str, tokens: int, kill_after: int, kill: Any
) -> tuple[str, list[float]]:
    """Return the text and each token's time of arrival; ``kill(route)`` is called after ``kill_after`` tokens."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "temperature": 0,
        "max_completion_tokens": tokens,
        "ignore_eos": True,
    }
    times, text = [], []
    with httpx.stream("POST", f"{door.url}/v1/chat/completions", json=body, timeout=600) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            piece = event["choices"][0]["delta"].get("content") if event["choices"] else None
            if piece:
                times.append(time.perf_counter())
                text.append(piece)
                if len(times) == kill_after:
                    kill(answer.headers["x-swarm-route"])
    return "".join(text), times


class Bench:
    def __init__(self, swarm: SwarmProcesses, args: argparse.Namespace) -> None:
        self.swarm = swarm
        self.tokens = args.tokens
        self.doors: dict[str, NodeProcess] = {}
        self.middle: list[NodeProcess] = []

    def start(self) -> None:
        for mode in MODES:
            settings = self.swarm.folder / f"{mode}.toml"
            settings.write_text(f'[session]\nrecovery = "{mode}"\ndraft_tokens = 0\n')
            self.doors[mode] = self.swarm.add("none", extra=["--config", str(settings)])
            wait_for("the door", lambda mode=mode: self.doors[mode].get("/health")[0])
        self.swarm.add("0:10", api=False)
        self.middle = [self.swarm.add(MIDDLE, api=False) for _ in range(2)]
        self.swarm.add("20:30", api=False)
        self.swarm.wait_servable(list(self.doors.values()))

    def whole(self) -> None:
        """Wait until every door sees both holders of the middle."""
        for door in self.doors.values():
            wait_for("two holders of the middle", lambda door=door: self._holders(door) == 2)

    def _holders(self, door: NodeProcess) -> int:
        _, state = door.get("/swarm/state")
        return sum(
            span["layers"] == MIDDLE
            for member in state["members"]
            if member["routable"]
            for span in member["spans"]
        )

    def processor_seconds(self) -> float:
        alive = [
            node for node in self.swarm.nodes if node.process is not None and node.process.poll() is None
        ]
        times = [psutil.Process(node.pid).cpu_times() for node in alive]
        return sum(time.user + time.system for time in times)

    def pause(self, mode: str, prompt: str) -> tuple[float, float, str]:
        """Lose a span in one answer; return the pause, the processor seconds after it, and the text."""
        door = self.doors[mode]
        killed: list[NodeProcess] = []
        spent: list[float] = []

        def kill(route: str) -> None:
            identity = next(hop.split("=")[0].strip() for hop in route.split(",") if MIDDLE in hop)
            _, state = door.get("/swarm/state")
            name = next(m["name"] for m in state["members"] if m["node"].startswith(identity))
            killed.extend(node for node in self.middle if node.name == name)
            killed[0].kill()
            spent.append(self.processor_seconds())

        text, times = stream(door, prompt, self.tokens, self.tokens // 2, kill)
        gaps = [after - before for before, after in pairwise(times)]
        after = gaps[self.tokens // 2 - 1 :]
        spent.append(self.processor_seconds())
        killed[0].start()
        return max(after), spent[1] - spent[0], text


def _spread(figures: list[float]) -> str:
    return f"{min(figures):.2f} / {statistics.median(figures):.2f} / {max(figures):.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", type=int, default=2000, help="about so many tokens")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        swarm = SwarmProcesses(Path(folder), dtype=args.dtype)
        try:
            bench = Bench(swarm, args)
            bench.start()
            pauses: dict[str, list[float]] = {mode: [] for mode in MODES}
            work: dict[str, list[float]] = {mode: [] for mode in MODES}
            for number in range(args.repeats):
                prompt = prompt_of(args.prompt, number + 1)
                texts = set()
                for mode in MODES:
                    bench.whole()
                    pause, seconds, text = bench.pause(mode, prompt)
                    pauses[mode].append(pause)
                    work[mode].append(seconds)
                    texts.add(text)
                    print(f"{mode:8} pause {pause:6.3f} s, processors {seconds:6.2f} s", flush=True)
                if len(texts) > 1:
                    print("the texts differ")
                    return 1
            for what, figures in (("pause", pauses), ("processors", work)):
                for mode, found in figures.items():
                    print(f"{what:10} {mode:8} {_spread(found)} s (min / median / max of {len(found)})")
                ratios = [b / a for a, b in zip(*(figures[mode] for mode in MODES), strict=True)]
                print(f"{what:10} re-prefill to replay {_spread(ratios)}")
        finally:
            swarm.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
