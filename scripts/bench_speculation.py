#!/usr/bin/env python3
"""What prompt-lookup drafts gain: the same answers with and without them, over loopback and over slower links.

Two nodes each time, one stream, in one run. Two kinds of prompt: one whose answer repeats the prompt's text (what
drafts are for) and one whose answer does not. Greedy answers must be equal with and without drafts in float32.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx

from tests.support.slow_link import SlowLinks
from tests.support.swarm_process import MODEL, swarm_of

PROMPTS = {
    "repeating": "Repeat this list three times, line by line: red apple, green pear, yellow banana, purple plum.",
    "new text": "Tell me something about the moon.",
}


def answer(url: str, prompt: str, tokens: int) -> tuple[str, float]:
    """Return the text and the tokens a second between the first and the last of them."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "temperature": 0,
        "max_completion_tokens": tokens,
        "ignore_eos": True,
    }
    times, text = [], []
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=600) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                piece = json.loads(line[6:])["choices"][0]["delta"].get("content")
                if piece:
                    times.append(time.perf_counter())
                    text.append(piece)
    return "".join(text), (tokens - 1) / (times[-1] - times[0])


def measure(drafts: int, milliseconds: float, args: argparse.Namespace) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = folder / "swarm.toml"
        settings.write_text(f"[session]\ndraft_tokens = {drafts}\n")
        options: dict[str, Any] = {"dtype": args.dtype, "extra": ["--config", str(settings)]}
        if milliseconds:
            options["slow_links"] = SlowLinks(milliseconds / 2000)
            stack.callback(options["slow_links"].close)
        swarm = stack.enter_context(swarm_of(["0:15", "15:30"], doors=[True, False], **options))
        url = swarm.nodes[0].url
        answer(url, "Hello.", 8)
        found: dict[str, Any] = {}
        for name, prompt in PROMPTS.items():
            results = [answer(url, prompt, args.tokens) for _ in range(args.repeats)]
            found[name] = {"text": results[0][0], "rates": [rate for _, rate in results]}
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 10, 50], help="added round trip, ms")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows, equal = [], True
    for delay in args.delays:
        without, with_drafts = measure(0, delay, args), measure(7, delay, args)
        for name in PROMPTS:
            same = without[name]["text"] == with_drafts[name]["text"]
            equal = equal and same
            ratios = [b / a for a, b in zip(without[name]["rates"], with_drafts[name]["rates"], strict=True)]
            spread = f"{min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"
            rows.append({"delay_ms": delay, "prompt": name, "same_text": same, "ratios": ratios})
            print(f"+{delay:g} ms, {name}: drafts / none {spread}, same text: {same}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if equal or args.dtype != "float32" else 1


if __name__ == "__main__":
    raise SystemExit(main())
