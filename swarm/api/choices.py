"""Opens the generations of one request and yields their pieces, those of several choices interleaved.

Knows no HTTP and no shape of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, repeat, zip_longest
from typing import TypeVar

from msgspec import UNSET, UnsetType

from swarm.api.account import Account
from swarm.api.admission import Admission, Place
from swarm.api.answers import SwarmUsage, UsedHop
from swarm.api.exchange import Exchange
from swarm.api.metrics import Meter, Metrics
from swarm.api.pieces import ChoiceText, Piece
from swarm.errors import OverloadedError, SwarmError
from swarm.node.front import FrontDoor, Generation, GenerationRequest

T = TypeVar("T")

AHEAD_TOKENS = 256
"""What an answer reserves beyond its prompt at first, as far as keys are weighed against each other."""


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
    account: Account
    tells_route: bool = False

    @property
    def route(self) -> str:
        """The path of the first choice, as the x-swarm-route header says it."""
        return self.account.route()

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
                UsedHop(
                    hop.node,
                    hop.name,
                    str(hop.span),
                    round(compute * 1000, 3),
                    round(queue * 1000, 3),
                    hop.quantize,
                )
                for hop, (compute, queue) in zip(
                    generation.route, chain(times, repeat((0.0, 0.0))), strict=False
                )
            ]
        )

    async def pieces(self) -> AsyncGenerator[tuple[Choice, list[Piece] | None], None]:
        """Yield (choice, pieces) as they come, and (choice, None) once when a choice has ended."""
        async with aclosing(merged([choice.pieces() for choice in self.choices])) as running:
            try:
                async for index, pieces in running:
                    if pieces is None:
                        self.account.finished.append(self.choices[index].finish_reason or "")
                    yield self.choices[index], pieces
            except SwarmError as exc:
                self.account.error = exc.api_code or "error"
                raise


async def open_answer(
    front: FrontDoor,
    requests: Sequence[GenerationRequest],
    texts: Sequence[ChoiceText],
    exchange: Exchange,
    *,
    metrics: Metrics,
    admission: Admission,
    tells_route: bool = False,
) -> Answer:
    """Reserve the paths of all choices or of none; nothing was sent to the client when this raises a SwarmError.

    Waits for its turn and for room. The generations are closed when the request ends.
    """
    clock = asyncio.get_running_loop().time
    account, cleanup = exchange.account, exchange.cleanup
    asked_at = account.asked_at = clock()
    first = requests[0]
    place = Place(
        scope=first.scope,
        tokens=sum(len(request.prompt) + min(request.max_tokens, AHEAD_TOKENS) for request in requests),
        max_tokens=first.max_tokens,
        since=asked_at,
    )
    holding: set[int] = set()

    def freed(index: int) -> None:
        holding.discard(index)
        if not holding:
            place.end()

    async def attempt() -> list[Generation]:
        seconds = max(0.001, first.deadline_seconds - (clock() - asked_at))
        holding.update(range(len(requests)))
        return await _open_all(
            front,
            [
                replace(request, deadline_seconds=seconds, freed=partial(freed, index))
                for index, request in enumerate(requests)
            ],
        )

    line = (first.model, first.trust, first.max_hops)
    generations = await admission.admit(line, place, attempt, seconds=first.deadline_seconds)
    account.opened_at, account.generations = clock(), generations
    cleanup.callback(place.end)
    choices = []
    for index, (generation, text) in enumerate(zip(generations, texts, strict=True)):
        meter = metrics.begin(account, generation.stats)
        cleanup.callback(meter.end)
        cleanup.push_async_callback(generation.aclose)
        choices.append(Choice(index, generation, text, meter))
    place.stats = generations[0].stats
    return Answer(tuple(choices), len(first.prompt), account, tells_route)


async def _open_all(front: FrontDoor, requests: Sequence[GenerationRequest]) -> list[Generation]:
    """Open all or none: who waits for room holds none meanwhile."""
    opened: dict[int, Generation] = {}

    async def reserve(index: int) -> None:
        opened[index] = await front.open(requests[index])

    try:
        results = await asyncio.gather(*map(reserve, range(len(requests))), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        # What will not get better by waiting comes before what will.
        for error in sorted(errors, key=lambda error: isinstance(error, OverloadedError)):
            raise error
    except BaseException:
        for generation in opened.values():
            await generation.aclose()
        raise
    return [opened[index] for index in range(len(requests))]


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
