"""The process that renders chat templates: ``python -m swarm.models.template_child``. Reads frames, writes frames.

It bounds itself, so that it ends even when its parent was killed: in time by faulthandler's watchdog, which needs no
lock of the interpreter, and in memory where the platform can.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
from typing import BinaryIO

import msgspec
import psutil

from swarm.errors import RequestError
from swarm.models.template import TemplateInput, render_template
from swarm.models.template_frames import Rendered, framed, size_of

MEMORY_BYTES = 1024 * 1024 * 1024
"""What rendering may take on top of the process itself."""


def main(seconds: float) -> None:
    frames, answers = sys.stdin.buffer, sys.stdout.buffer
    # What a library prints must not get among the frames.
    sys.stdout = sys.stderr
    warm_up()
    bound_memory()
    answers.write(framed(Rendered(text="")))
    answers.flush()
    with open(os.devnull, "wb") as nowhere:
        while (body := _frame(frames)) is not None:
            faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
            answer = framed(answered(body))
            faulthandler.cancel_dump_traceback_later()
            answers.write(answer)
            answers.flush()


def answered(body: bytes) -> Rendered:
    try:
        return Rendered(text=render_template(msgspec.msgpack.decode(body, type=TemplateInput)))
    except RequestError as exc:
        return Rendered(refusal=str(exc))


def warm_up() -> None:
    """Import what rendering needs before the limits hold."""
    render_template(TemplateInput("{{ messages }}", [{"role": "user", "content": ""}], None, True, False, {}))


def bound_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows; macOS does not enforce it
        import resource

        limit = psutil.Process().memory_info().vms + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _frame(stream: BinaryIO) -> bytes | None:
    head = stream.read(4)
    if len(head) < 4:
        return None
    body = stream.read(size_of(head))
    return body if len(body) == size_of(head) else None


if __name__ == "__main__":
    main(float(sys.argv[1]))
