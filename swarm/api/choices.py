"""Opens the generations of one request and yields their pieces, those of several choices interleaved.

Knows no HTTP and no shape of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from itertools import chain, repeat, zip_longest
from typing import TypeVar

from msgspec import UNSET, UnsetType

from swarm.api.answers import SwarmUsage, UsedHop
from swarm.api.metrics import Meter, Metrics
from swarm.api.pieces import ChoiceText, Piece
from swarm.node.front import FrontDoor, Generation, GenerationRequest, RouteHop

T = TypeVar("T")


@dataclass(slots=True)
class Choice:
    """One running choice. ``finish_reason`` is known when its pieces have ended."""

    index: int
    generation: Generation
    text: ChoiceText
    meter: Meter
    finish_reason: str | None = None

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """Yield what can be shown, in order. Raises SwarmError when the answer can't be continued."""
        clock = asyncio.get_running_loop().time
        async for event in self.generation:
            if event.token >= 0:
                self.meter.token(clock())
            if shown := self.text.push(event):
                yield shown
            if self.text.stopped:
                break
        reason = "stop" if self.text.stopped else self.generation.finish_reason or "stop"
        await self.generation.aclose()
        if rest := self.text.finish():
            yield rest
        self.finish_reason = "tool_calls" if self.text.calls and reason == "stop" else reason


@dataclass(frozen=True, slots=True)
class Answer:
    """All choices of one request."""

    choices: tuple[Choice, ...]
    prompt_tokens: int
    tells_route: bool = False

    @property
    def route(self) -> str:
        """The path of the first choice, as the x-swarm-route header says it."""
        return described_route(self.choices[0].generation.route)

    @property
    def completion_tokens(self) -> int:
        return sum(choice.text.tokens for choice in self.choices)

    @property
    def reasoning_tokens(self) -> int:
        return sum(choice.text.reasoning_tokens for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        return self.choices[0].generation.stats.cached_tokens

    @property
    def swarm_usage(self) -> SwarmUsage | UnsetType:
        """Each hop of the first choice with its times so far, for requests that ask for it."""
        if not self.tells_route:
            return UNSET
        generation = self.choices[0].generation
        stats = generation.stats
        times = zip_longest(stats.hop_compute_seconds, stats.hop_queue_seconds, fillvalue=0.0)
        return SwarmUsage(
            [
                UsedHop(hop.node, hop.name, str(hop.span), round(compute * 1000, 3), round(queue * 1000, 3))
                for hop, (compute, queue) in zip(
                    generation.route, chain(times, repeat((0.0, 0.0))), strict=False
                )
            ]
        )

    async def pieces(self) -> AsyncGenerator[tuple[Choice, list[Piece] | None], None]:
        """Yield (choice, pieces) as they come, and (choice, None) once when a choice has ended."""
        async with aclosing(merged([choice.pieces() for choice in self.choices])) as running:
            async for index, pieces in running:
                yield self.choices[index], pieces


async def open_answer(
    front: FrontDoor,
    requests: Sequence[GenerationRequest],
    texts: Sequence[ChoiceText],
    cleanup: AsyncExitStack,
    *,
    metrics: Metrics,
    tells_route: bool = False,
) -> Answer:
    """Reserve every choice's path; nothing has been sent to the client when this raises a SwarmError.

    ``cleanup`` closes the generations when the request ends.
    """
    asked_at = asyncio.get_running_loop().time()

    async def reserve(request: GenerationRequest) -> tuple[Generation, Meter]:
        generation = await front.open(request)
        meter = metrics.begin(generation.stats, asked_at)
        cleanup.callback(meter.end)
        cleanup.push_async_callback(generation.aclose)
        return generation, meter

    if len(requests) == 1:
        generations = [await reserve(requests[0])]
    else:
        opened = await asyncio.gather(*map(reserve, requests), return_exceptions=True)
        generations = []
        for result in opened:
            if isinstance(result, BaseException):
                raise result
            generations.append(result)
    choices = tuple(
        Choice(index, generation, text, meter)
        for index, ((generation, meter), text) in enumerate(zip(generations, texts, strict=True))
    )
    return Answer(choices, len(requests[0].prompt), tells_route)


async def merged(iterators: Sequence[AsyncIterator[T]]) -> AsyncGenerator[tuple[int, T | None], None]:
    """Yield (index, item) as items come, and (index, None) once when that iterator has ended."""
    if len(iterators) == 1:
        async for item in iterators[0]:
            yield 0, item
        yield 0, None
        return
    waiting = {asyncio.ensure_future(anext(iterator)): index for index, iterator in enumerate(iterators)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                index = waiting.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    yield index, None
                    continue
                waiting[asyncio.ensure_future(anext(iterators[index]))] = index
                yield index, item
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def described_route(route: Sequence[RouteHop]) -> str:
    return ", ".join(map(str, route))
