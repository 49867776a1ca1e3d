#!/usr/bin/env python3
"""Take one guard away at a time and see which test misses it: scripts/teeth.py [word …].

Works on a copy of the sources in a temporary folder. First all named tests must pass there; then, with each guard of
_guards.py (or those with one of the words in their names) gone, its tests must fail; a test that then never ends has
missed it too, and is named as such. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from _bootstrap import ROOT, enter_environment

if __name__ == "__main__":
    enter_environment(with_tests=True)  # what follows is in .venv

from _guards import GUARDS, Guard

COPIED = ("swarm", "tests", "scripts", "docs", "pyproject.toml")
SECONDS = 150
FAILED = 1
"""What pytest ends with when tests failed; other numbers are errors, which prove nothing."""
HUNG = -1
"""It did not end by itself, not even by pytest's own time limit for a test."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="only guards whose names have one of these words")
    words = parser.parse_args().words
    guards = [guard for guard in GUARDS if not words or any(word in guard.name for word in words)]
    with tempfile.TemporaryDirectory(prefix="swarm-teeth-") as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
                )
            else:
                shutil.copy(source, copy / name)
        tests = sorted({test for guard in guards for test in guard.tests})
        ended, output = _pytest(copy, tests)
        if ended != 0:
            print(f"the tests must pass with every guard in place:\n{output}", file=sys.stderr)
            return 1
        print("| without this guard | red |\n|---|---|", flush=True)
        gaps = [guard.name for guard in guards if not _missed(copy, guard)]
    for name in gaps:
        print(f"a gap: no test misses {name!r}", file=sys.stderr)
    print(f"\n{len(guards) - len(gaps)} of {len(guards)} guards are missed by a test.")
    return 1 if gaps else 0


def _missed(copy: Path, guard: Guard) -> bool:
    """Run the guard's tests without it; print what turned red."""
    file = copy / guard.file
    text = file.read_text(encoding="utf-8")
    if text.count(guard.text) != 1:
        print(
            f"| {guard.name} | **stands {text.count(guard.text)} times in {guard.file}: update _guards.py** |"
        )
        return False
    file.write_text(text.replace(guard.text, guard.without), encoding="utf-8")
    try:
        ended, output = _pytest(copy, guard.tests)
    finally:
        file.write_text(text, encoding="utf-8")
    red = sorted({_name(line) for line in output.splitlines() if line.startswith("FAILED ")})
    if ended == HUNG:
        red = [f"{_name(test)} (did not end within {SECONDS} s)" for test in guard.tests]
    missed = ended == HUNG or (ended == FAILED and bool(red))
    shown = "<br>".join(f"`{name}`" for name in red) if missed else "**nothing**"
    print(f"| {guard.name} | {shown} |", flush=True)
    return missed


def _name(line: str) -> str:
    """Return the test's name out of pytest's line about its failure, without parameters."""
    return line.removeprefix("FAILED ").split(" - ")[0].split("[")[0].rpartition("::")[2]


def _pytest(copy: Path, tests: list[str] | tuple[str, ...]) -> tuple[int, str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=no",
        "-p",
        "no:cacheprovider",
        "--timeout=60",
        *tests,
    ]
    # Not the installed package, nor bytecode of the file as it was a moment ago.
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return HUNG, f"not ended within {SECONDS} s: {' '.join(tests)}"
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    raise SystemExit(main())
