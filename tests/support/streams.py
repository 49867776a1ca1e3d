"""Streamed answers as their clients see them: text, pauses and how they ended. Judges nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx
from openai import OpenAI

SECONDS = 120.0


@dataclass
class Heard:
    """One answer. ``times`` are those of the events with text, in seconds of time.monotonic."""

    status: int = 0
    route: str = ""
    text: str = ""
    times: list[float] = field(default_factory=list)
    finish: list[str] = field(default_factory=list)
    done: int = 0
    error: dict[str, Any] | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    retry_after: str | None = None
    keepalives: int = 0
    """Comment lines, which say that the door still works on it."""
    broken: str = ""
    """What the connection broke with, if it did."""

    @property
    def whole(self) -> bool:
        """Whether the answer was completed: one finish reason, one [DONE], no error."""
        return (
            self.status == 200
            and self.done == 1
            and len(self.finish) == 1
            and not (self.error or self.broken)
        )

    @property
    def ended_honestly(self) -> bool:
        """Whether the client was told how it ended: whole, refused, or an error event and no [DONE]."""
        if self.status != 200:
            return self.status in (400, 404, 429, 503) and self.error is not None
        return self.whole or (self.error is not None and self.done == 0)

    @property
    def pause(self) -> float:
        """The longest time between two texts."""
        return max((later - earlier for earlier, later in pairwise(self.times)), default=0.0)


def body_of(model: str, prompt: str, tokens: int, **more: Any) -> dict[str, Any]:
    """Return a streaming request for exactly ``tokens`` tokens, greedy unless ``more`` says otherwise."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_completion_tokens": tokens,
        "ignore_eos": True,
        **more,
    }


async def hear(
    client: httpx.AsyncClient,
    url: str,
    body: dict[str, Any],
    on_text: Callable[[int, Heard], None] = lambda count, heard: None,
    *,
    headers: dict[str, str] | None = None,
) -> Heard:
    """Ask and listen to the end; ``on_text`` is told the number of texts so far: 0 at the headers, then after each."""
    heard = Heard()
    try:
        async with client.stream(
            "POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=SECONDS
        ) as answer:
            heard.status = answer.status_code
            heard.route = answer.headers.get("x-swarm-route", "")
            heard.retry_after = answer.headers.get("retry-after")
            if answer.status_code != 200:
                heard.error = json.loads(await answer.aread())["error"]
                return heard
            on_text(0, heard)
            async for line in answer.aiter_lines():
                heard.keepalives += line.startswith(":")
                if line.startswith("data: "):
                    _take(heard, line.removeprefix("data: "), on_text)
    except httpx.HTTPError as exc:
        heard.broken = repr(exc)
    return heard


def _take(heard: Heard, data: str, on_text: Callable[[int, Heard], None]) -> None:
    if data == "[DONE]":
        heard.done += 1
        return
    event = json.loads(data)
    if "error" in event:
        heard.error = event["error"]
        return
    heard.usage = event.get("usage") or heard.usage
    for choice in event["choices"]:
        if choice["finish_reason"]:
            heard.finish.append(choice["finish_reason"])
        if text := choice["delta"].get("content"):
            heard.text += text
            heard.times.append(time.monotonic())
            on_text(len(heard.times), heard)


def percentile(values: list[float], share: float) -> float:
    """Return the value below which that share of ``values`` lies; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def say(url: str, model: str, tokens: int, key: str = "unused") -> Iterator[str]:
    """Yield the pieces of one greedy answer of ``tokens`` tokens, as the OpenAI SDK reads them."""
    with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=SECONDS) as client:
        for chunk in client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Say something long."}],
            temperature=0,
            max_completion_tokens=tokens,
            stream=True,
            extra_body={"ignore_eos": True},
        ):
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content
