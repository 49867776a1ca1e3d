"""Ends this process when whoever started it is gone: its end of our standard input closes with it."""

from __future__ import annotations

import os
import signal
import threading
import time

GRACE_SECONDS = 10.0
AGAIN_SECONDS = 0.5
STDIN = 0


def stop_when_stdin_ends() -> None:
    """Watch standard input from a thread: at its end, stop as on Ctrl-C; if that hangs, end at once.

    A pipe closes on every platform when its writer dies, by SIGKILL too.
    """
    threading.Thread(target=_watch, name="stdin-watchdog", daemon=True).start()


def _watch() -> None:
    # Not through sys.stdin: a daemon thread inside its lock would break the interpreter's shutdown.
    while os.read(STDIN, 1024):
        pass
    give_up = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < give_up:
        # More than once: code that is being imported may swallow a KeyboardInterrupt.
        signal.raise_signal(signal.SIGINT)
        time.sleep(AGAIN_SECONDS)
    os._exit(1)
