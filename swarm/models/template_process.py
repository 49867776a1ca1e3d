"""Chat templates rendered in a process of their own, within bounds of time and memory.

A template is a program that came with a model. In a process it can be ended whatever it does, and it sees no key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping

import msgspec

from swarm.errors import ModelError, RequestError
from swarm.models.template import TemplateInput
from swarm.models.template_frames import HEAD_BYTES, Rendered, framed, size_of

TEMPLATE_SECONDS = 10.0
START_SECONDS = 60.0
_GRACE_SECONDS = 2.0
_LEAVE_SECONDS = 0.5
_MAX_ANSWER_BYTES = 128 * 1024 * 1024
_KEPT = frozenset(
    {"PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT"}
    | {"HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "TMPDIR", "TEMP", "TMP", "TZ", "LANG", "LC_ALL"}
)
"""Keys come in variables too, under names that this module need not know."""


class TemplateLimitError(RequestError):
    api_code = "template_limit_exceeded"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The model's chat template does not come to an end with these messages in {seconds:g} seconds and the "
            "memory it may use.",
            param="messages",
        )


class TemplateProcess:
    """One process, started when it is first needed, or beforehand by ``start``; a new one takes a dead one's place.

    Requests are rendered one after the other.
    """

    def __init__(self, seconds: float = TEMPLATE_SECONDS) -> None:
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Have a process ready. Raises ModelError when none can be started."""
        async with self._turn:
            await self._ready()

    async def render(self, given: TemplateInput) -> str:
        """Return the prompt's text. Raises RequestError when the template refuses, TemplateLimitError (one too)."""
        try:
            request = framed(given)
        except (TypeError, OverflowError, UnicodeError) as exc:
            raise RequestError(f"These messages can't be rendered: {exc}", param="messages") from exc
        async with self._turn:
            process = await self._ready()
            answer = await self._answer(process, request, self._seconds + _GRACE_SECONDS)
        if answer is None:
            raise TemplateLimitError(self._seconds)
        if answer.refusal:
            raise RequestError(answer.refusal, param="messages")
        return answer.text

    async def aclose(self) -> None:
        async with self._turn:
            await self._end()

    async def _ready(self) -> asyncio.subprocess.Process:
        if self._process is not None and _lives(self._process):
            return self._process
        await self._end()
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "swarm.models.template_child", str(self._seconds)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                # What it warns of may quote a message.
                stderr=asyncio.subprocess.DEVNULL,
                env=environment_of(os.environ),
            )
        except OSError as exc:
            raise ModelError(f"the process that renders chat templates can't be started: {exc}") from exc
        if await self._answer(process, b"", START_SECONDS) is None:
            raise ModelError("the process that renders chat templates ended before it was ready")
        return process

    async def _answer(
        self, process: asyncio.subprocess.Process, request: bytes, seconds: float
    ) -> Rendered | None:
        """Send a request and return its answer; None when the process has ended, or had to be."""
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        answer: Rendered | None = None
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(request)
                await process.stdin.drain()
                size = size_of(await process.stdout.readexactly(HEAD_BYTES))
                if size <= _MAX_ANSWER_BYTES:
                    answer = msgspec.msgpack.decode(await process.stdout.readexactly(size), type=Rendered)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError, msgspec.MsgspecError):
            pass
        finally:
            # A request that was given up half way would have its answer read as the next one's.
            if answer is None:
                await self._end()
        return answer

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            # It ends by itself when there is nothing more to read, or has ended already.
            await asyncio.wait_for(process.wait(), _LEAVE_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _lives(process: asyncio.subprocess.Process) -> bool:
    """Whether it can answer: the end of its output is often seen before its end itself."""
    return process.returncode is None and process.stdout is not None and not process.stdout.at_eof()


def environment_of(own: Mapping[str, str]) -> dict[str, str]:
    """Return what the process sees of this one's variables: what Python needs, and no key."""
    kept = {name: value for name, value in own.items() if name.upper() in _KEPT}
    return {**kept, "HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1"}
