"""What a person sees: plain lines, and a progress bar where the output is a terminal. Logs nothing."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TaskID
from rich.status import Status
from rich.text import Text

from swarm.errors import ConfigError
from swarm.models.progress import Progress

PIPE_COLUMNS = 200


def announce(line: str) -> None:
    """Print a line (or some) of what happens."""
    print("\n".join(map(printable, line.split("\n"))), flush=True)


def warn(line: str) -> None:
    """Print a line that the person should act on."""
    print(f"warning: {printable(line)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Escape what would steer a terminal: names come from other machines."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def coloured(out: TextIO) -> bool:
    """Return whether what goes to ``out`` may be dimmed and coloured: on a terminal that NO_COLOR leaves free."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table_console() -> Console:
    """Return where tables go: as wide as the terminal (or $COLUMNS), else wide enough to cut nothing."""
    fits_itself = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if fits_itself else PIPE_COLUMNS)


def wrapped(text: str, indent: int) -> str:
    """Break a line between words at the terminal's edge, what follows indented; elsewhere it stays one line."""
    if not sys.stdout.isatty():
        return text
    columns = max(table_console().width, 2 * indent)
    return (
        "\n".join(textwrap.wrap(text, columns, subsequent_indent=" " * indent, break_on_hyphens=False))
        or text
    )


def progress() -> Progress:
    """Return how long work is shown: bars on a terminal, else a line at its start and end."""
    return _Bars() if sys.stderr.isatty() else _Lines()


class Waiting(Protocol):
    """A sign that something is waited for; standard error is free again once it is stopped."""

    def start(self) -> None: ...
    def update(self, reason: str) -> None: ...
    def stop(self) -> None: ...


def waiting(what: str) -> Waiting:
    """Return a spinner for a terminal; elsewhere only a reason is told, as a line."""
    return _Spinner(what) if sys.stderr.isatty() else _Reason()


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a spinner on a terminal while something takes its time; elsewhere nothing."""
    sign = waiting(what)
    sign.start()
    try:
        yield
    finally:
        sign.stop()


def confirmed(question: str) -> bool:
    """Ask on the terminal; Ctrl-C is no answer but an interrupt. Raises ConfigError where nobody can answer."""
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask on whether that is meant; say it with --yes")
    return input(f"{printable(question)} [y/N] ").strip().lower() in ("y", "yes")


class _Spinner:
    def __init__(self, what: str) -> None:
        # Text: a reason may hold what would be markup.
        self._status = Status(Text(what), console=Console(stderr=True), spinner="dots")

    def start(self) -> None:
        self._status.start()

    def update(self, reason: str) -> None:
        self._status.update(Text(printable(reason)))

    def stop(self) -> None:
        self._status.stop()


class _Reason:
    def start(self) -> None:
        """There is nothing to tell yet."""

    def update(self, reason: str) -> None:
        print(printable(reason), file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Nothing stands on the line."""


class _Lines:
    """Says what begins and what is done, once each. Calls come from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: set[str] = set()

    def __call__(self, what: str, done: int, total: int) -> None:
        with self._lock:
            if what not in self._begun:
                self._begun.add(what)
                print(f"{what} …", file=sys.stderr, flush=True)
            elif done >= total:
                self._begun.discard(what)
                print(f"{what}: done", file=sys.stderr, flush=True)


class _Bars:
    """One bar for each piece of work; the display ends with the last of them. Calls come from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._display: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        with self._lock:
            if self._display is None:
                self._display = Bars(console=Console(stderr=True), transient=True)
                self._display.start()
            if what not in self._tasks:
                self._tasks[what] = self._display.add_task(what, total=total)
            self._display.update(self._tasks[what], completed=done, total=total)
            if done >= total:
                self._display.remove_task(self._tasks.pop(what))
            if not self._tasks:
                self._display.stop()
                self._display = None
