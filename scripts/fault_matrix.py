#!/usr/bin/env python3
"""Rows of the fault matrix at their full size on real processes, with the number each is to reach.

    scripts/fault_matrix.py                  all of them
    scripts/fault_matrix.py --only F2 F18    some

F2, F6, F18, F19 and F22 run two front doors and two holders of each half of a small random model on loopback; F3 and
F8 the same behind proxies that can swallow what one node sends another; F10 the default model and processes that take
one node's core (Linux, two cores). Nodes have one thread each. Every row gives nothing lost, doubled or changed as its
first number. Ends by itself, within about ten minutes. F9 runs only when named: it needs Linux and root, for a network
namespace for each node. scripts/kill_matrix.py is F1, scripts/chaos.py F7.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from _bootstrap import enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _link_rows import link_rows
from _load_rows import load_rows
from _lossy_rows import lossy_rows
from _matrix import Number, Rows, table
from _slow_rows import slow_rows
from tests.support.tiny_model import write_tiny_model

NEEDS_ROOT = "F9"
KINDS: tuple[tuple[Callable[[str], AbstractContextManager[Rows]], tuple[str, ...]], ...] = (
    (load_rows, ("F19", "F18", "F2", "F6", "F22")),
    (link_rows, ("F3", "F8")),
    (slow_rows, ("F10",)),
)
"""How to start a swarm for a kind of rows, and those rows, in the order in which they are run."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = [name for _, names in KINDS for name in names]
    every = [*usual, NEEDS_ROOT]
    parser.add_argument("--only", nargs="+", choices=every, default=usual, help="these rows (all but F9)")
    parser.add_argument("--minutes", type=float, default=10.0, help="for how long F9 asks (10)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()
    from _model import ensure_default_model

    ensure_default_model()  # the small model has its tokenizer
    numbers: list[Number] = []
    with tempfile.TemporaryDirectory(prefix="swarm-matrix-") as folder:
        model = write_tiny_model(Path(folder) / "model")
        kinds = (*KINDS, (partial(lossy_rows, minutes=arguments.minutes), (NEEDS_ROOT,)))
        for start, names in kinds:
            wanted = [name for name in names if name in arguments.only]
            if wanted:
                with start(model) as rows:
                    for name in wanted:
                        asyncio.run(getattr(rows, name.lower())())
                        rows.rest()
                    numbers += rows.numbers
    print(f"\n{table(numbers)}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(number) for number in numbers], indent=1))
    return 1 if any(number.good is False for number in numbers) else 0


if __name__ == "__main__":
    raise SystemExit(main())
