"""Tells reasoning, answer and calls apart in the harmony format (gpt-oss). Knows nothing of tokens or HTTP."""

from __future__ import annotations

import re

from swarm.api.reasoning import Kind, Part
from swarm.api.tools.calls import Call

_MESSAGE = "<|message|>"
_END = re.compile(r"<\|(?:end|call|return|start)\|>")
_LONGEST_END = len("<|return|>")
_CHANNEL = re.compile(r"<\|channel\|>\s*([a-z]+)")
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([A-Za-z0-9_.-]+)")


class HarmonySplitter:
    """Messages are a header, ``<|message|>``, a body and an end; analysis is reasoning, a recipient makes a call."""

    def __init__(self) -> None:
        self._held = ""
        self._kind: Kind | None = None
        """The kind of the body that is being read; None in a header."""
        self._function: str | None = None
        self.reasoning_pushes = 0

    def push(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        was_reasoning = self._kind == "reasoning"
        while self._step(parts):
            pass
        self.reasoning_pushes += was_reasoning or self._kind == "reasoning"
        return parts

    def finish(self) -> list[Part]:
        held, self._held = self._held, ""
        if not held:
            return []
        if self._kind is None:
            return [Part("markup" if "<|" in held else "content", held)]
        return [self._ended(held, cut=True)]

    def _step(self, parts: list[Part]) -> bool:
        if self._kind is None:
            at = self._held.find(_MESSAGE)
            if at < 0:
                return False
            self._begin(self._held[:at])
            self._take("markup", at + len(_MESSAGE), parts)
            return True
        end = _END.search(self._held)
        if end is not None:
            if self._function is not None:
                parts.append(self._ended(self._held[: end.start()]))
                self._held = self._held[end.start() :]
            else:
                self._take(self._kind, end.start(), parts)
            self._kind = self._function = None
            self._take("markup", end.end() - end.start(), parts)
            return True
        if self._function is None:
            tag = self._held.rfind("<", -_LONGEST_END)
            self._take(self._kind, len(self._held) if tag < 0 else tag, parts)
        return False

    def _begin(self, header: str) -> None:
        channel = _CHANNEL.search(header)
        recipient = _RECIPIENT.search(header)
        self._function = recipient[1] if recipient else None
        self._kind = "reasoning" if channel and channel[1] == "analysis" and not recipient else "content"

    def _ended(self, body: str, *, cut: bool = False) -> Part:
        """A call that the end of the text cut short is none."""
        if self._function is None:
            return Part(self._kind or "content", body)
        document = body.strip()
        whole = document.endswith("}") or not cut
        return Part("markup", body, Call(self._function, document or "{}") if whole else None)

    def _take(self, kind: Kind, length: int, parts: list[Part]) -> None:
        if length:
            parts.append(Part(kind, self._held[:length]))
            self._held = self._held[length:]
