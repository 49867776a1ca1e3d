"""A program on a real pseudo-terminal (not on Windows): typed at, interrupted, and what its screen shows.

``screen`` is what a person sees now, by a terminal emulator; ``raw`` is every byte it wrote, colours included.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals of this kind on Windows", allow_module_level=True)

import pexpect
import pyte

ENTER, ESCAPE, TAB, CTRL_C, CTRL_D = "\r", "\x1b", "\t", "\x03", "\x04"
UP, DOWN, RIGHT, LEFT = "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D"
SECONDS = 30.0
STYLE = re.compile(r"\x1b\[[0-9;:]*m")
"""Colours, bold, dim: what has no place in a pipe."""
SEQUENCE = re.compile(r"\x1b[\[(][0-?]*[ -/]*[@-~]|\x1b[=>]")


class Terminal:
    """One running program and the screen it draws on."""

    def __init__(self, child: pexpect.spawn[str], columns: int, rows: int) -> None:
        self.child = child
        self.raw = ""
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self._screen)

    @property
    def screen(self) -> str:
        """The rows shown now, without blanks at their ends."""
        self.read()
        return "\n".join(row.rstrip() for row in self._screen.display)

    @property
    def text(self) -> str:
        """Everything ever written, without what steers the terminal."""
        self.read()
        return SEQUENCE.sub("", self.raw).replace("\r\n", "\n")

    @property
    def coloured(self) -> bool:
        return STYLE.search(self.raw) is not None

    def read(self, seconds: float = 0.0) -> None:
        """Take what was written by now; wait for something so long if there is nothing yet."""
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while not self.child.closed:
                piece = self.child.read_nonblocking(65536, timeout=seconds)
                self.raw += piece
                # Private modes and queries the emulator doesn't know would be printed by it.
                self._stream.feed(re.sub(r"\x1b\[[<=>][0-?]*[ -/]*[@-~]", "", piece))
                seconds = 0.0

    def shows(self, pattern: str, seconds: float = SECONDS) -> re.Match[str]:
        """Wait until the screen matches; fail with what it shows."""
        return self._until(pattern, lambda: self.screen, seconds)

    def wrote(self, pattern: str, seconds: float = SECONDS) -> re.Match[str]:
        """Wait until something matching was written, also if it is gone from the screen since."""
        return self._until(pattern, lambda: self.text, seconds)

    def type(self, text: str) -> None:
        self.child.send(text)

    def interrupt(self) -> None:
        """Ctrl-C, as the keyboard sends it to whatever is in front."""
        self.child.sendintr()

    def ended(self, seconds: float = SECONDS) -> int:
        """Wait for the end; returns the exit code, minus the signal's number if one ended it."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            self.read(0.05)
            if not self.child.isalive():
                self.read()
                if self.child.exitstatus is not None:
                    return int(self.child.exitstatus)
                return -int(self.child.signalstatus or 0)
        raise TimeoutError(f"still running after {seconds:.0f} s:\n{self.text[-3000:]}")

    def interrupted(self, times: int = 10) -> int:
        """Press Ctrl-C as often as it takes to end it; returns the exit code.

        One that comes between a prompt and the read behind it is heeded by Python only once that read returns.
        """
        for _ in range(times - 1):
            self.interrupt()
            with contextlib.suppress(TimeoutError):
                return self.ended(SECONDS / times)
        self.interrupt()
        return self.ended(SECONDS / times)

    def _until(self, pattern: str, seen: Any, seconds: float) -> re.Match[str]:
        wanted = re.compile(pattern, re.MULTILINE)
        give_up = time.monotonic() + seconds
        while True:
            found = wanted.search(seen())
            if found:
                return found
            if time.monotonic() > give_up or not self.child.isalive():
                found = wanted.search(seen())
                if found:
                    return found
                how = "running" if self.child.isalive() else f"ended with {self.child.exitstatus}"
                raise AssertionError(f"no {pattern!r} ({how}):\n{seen()[-3000:]}")
            self.read(0.05)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def on_a_terminal(
    command: Sequence[str],
    *,
    columns: int = 100,
    rows: int = 30,
    environment: Mapping[str, str | None] | None = None,
) -> Iterator[Terminal]:
    """Run ``command`` on a pseudo-terminal of its own; killed at the end if it still runs.

    ``environment`` is added to this process's; None takes a variable away.
    """
    wanted: dict[str, str | None] = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    # What CI and people set to force or forbid colours would decide instead of the terminal.
    wanted |= dict.fromkeys(("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE"))
    wanted |= environment or {}
    child = pexpect.spawn(
        command[0],
        list(command[1:]),
        env={name: value for name, value in wanted.items() if value is not None},
        dimensions=(rows, columns),
        encoding="utf-8",
        codec_errors="replace",
        timeout=None,
        # A test run in the background ignores Ctrl-C, and its children would inherit that.
        preexec_fn=_heed_interrupts,
    )
    child.delaybeforesend = None
    try:
        yield Terminal(child, columns, rows)
    finally:
        child.close(force=True)


def swarm_on_a_terminal(*arguments: str, **options: Any) -> contextlib.AbstractContextManager[Terminal]:
    """Run ``python -m swarm`` so."""
    return on_a_terminal([sys.executable, "-m", "swarm", *arguments], **options)
