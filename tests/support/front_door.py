"""A node as its API sees it, answering from a script, and a real HTTP server in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from prometheus_client.core import Metric

from swarm.api.server import ApiServer
from swarm.config import ApiSettings
from swarm.engine.jobs import EngineStats, TokenLogprob
from swarm.errors import ModelError, NoPathError, OverloadedError, SwarmError, UnknownModelError
from swarm.models.tokenizer import ChatTokenizer
from swarm.net.traffic import Traffic
from swarm.node.front import (
    FinishReason,
    GenerationRequest,
    GenerationStats,
    RouteHop,
    ServedModel,
    TokenEvent,
)
from swarm.node.meters import readings
from swarm.node.sharing import WeightTraffic
from swarm.types import Address, LayerSpan, NodeId

MODEL = "org/scripted-model"
LOOPBACK = Address("127.0.0.1", 0)
STOP_ID = 2
FIRST_WORD = 0x110000
"""Ids below are characters; the words of a script are numbered from here."""

Step = str | float | SwarmError | Exception | asyncio.Event
"""A token's text, seconds of silence, an error, or something to wait for."""


class ScriptedTokenizer:
    """One token a character in prompts, one token a word of the script in answers."""

    takes_tools = False
    stop_ids = frozenset({STOP_ID})
    chat_template: str | None = "scripted"
    vocab_size = FIRST_WORD + 10_000

    def __init__(self) -> None:
        self._words: list[str] = []
        self.rendered: list[dict[str, Any]] = []
        self.prompt_suffix = "<assistant>"

    def render(self, messages: Sequence[dict[str, Any]], **options: Any) -> str:
        self.rendered.append({"messages": messages, **options})
        return "".join(f"<{m['role']}>{m['content']}\n" for m in messages) + self.prompt_suffix

    def encode(self, text: str, *, special: bool) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(self.token_text, ids))

    def word(self, text: str) -> int:
        self._words.append(text)
        return FIRST_WORD + len(self._words) - 1

    def token_text(self, token: int) -> str:
        return self._words[token - FIRST_WORD] if token >= FIRST_WORD else chr(token)

    def token_bytes(self, token: int) -> bytes:
        return self.token_text(token).encode()


@dataclass
class ScriptedGeneration:
    request: GenerationRequest
    steps: list[Step]
    tokenizer: ScriptedTokenizer
    finish: FinishReason = "stop"
    closed: bool = False
    route: tuple[RouteHop, ...] = (
        RouteHop(NodeId("a" * 32), "anna", LayerSpan(0, 4)),
        RouteHop(NodeId("b" * 32), "ben", LayerSpan(4, 8)),
    )
    stats: GenerationStats = field(default_factory=GenerationStats)
    finish_reason: FinishReason | None = None

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprob, ...]:
        """A prompt's token has minus its place for a log-probability."""
        wanted = self.request.prompt_logprobs
        if wanted is None:
            return ()
        top = tuple((ord("a") + at, -float(at)) for at in range(wanted))
        return tuple(
            TokenLogprob(token, -float(at), top) for at, token in enumerate(self.request.prompt) if at
        )

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        given = 0
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            else:
                if given == self.request.max_tokens:
                    self.finish_reason = "length"
                    return
                given += 1
                self.stats.completion_tokens = given
                yield self._event(step)
        self.finish_reason = self.finish

    async def aclose(self) -> None:
        self.closed = True
        self.request.freed()

    def _event(self, text: str) -> TokenEvent:
        token = self.tokenizer.word(text)
        wanted = self.request.sampling.top_logprobs
        if wanted is None:
            return TokenEvent(token, text)
        top = tuple((ord("a") + at, -float(at)) for at in range(wanted))
        return TokenEvent(token, text, TokenLogprob(token, -0.5, top))


@dataclass
class FakeFrontDoor:
    """``script`` says what a request is answered with; ``refusal`` is raised by ``open`` instead."""

    script: Callable[[GenerationRequest], Sequence[Step]] = lambda request: ["Hello", ",", " world", "!"]
    finish: FinishReason = "stop"
    refusal: SwarmError | None = None
    rooms: int | None = None
    """So many answers fit at once; one more is refused as by a full swarm."""
    served: tuple[ServedModel, ...] = (
        ServedModel(name=MODEL, digest="0" * 64, layers=8, context_tokens=4096, created=1_700_000_000),
    )
    chat_tokenizer: ScriptedTokenizer = field(default_factory=ScriptedTokenizer)
    generations: list[ScriptedGeneration] = field(default_factory=list)

    def models(self) -> tuple[ServedModel, ...]:
        return self.served

    async def ready(self, model: str) -> ServedModel:
        for served in self.served:
            if served.name == model:
                if served.missing:
                    raise NoPathError(model, served.missing)
                if served.problem:
                    raise ModelError(served.problem)
                return served
        raise UnknownModelError(model, [served.name for served in self.served])

    async def tokenizer(self, model: str) -> ChatTokenizer:
        if model not in [served.name for served in self.served]:
            raise UnknownModelError(model, [])
        return cast(ChatTokenizer, self.chat_tokenizer)

    async def open(self, request: GenerationRequest) -> ScriptedGeneration:
        if self.refusal is not None:
            raise self.refusal
        if self.rooms is not None and sum(not begun.closed for begun in self.generations) >= self.rooms:
            raise OverloadedError("Every path is full for now: no KV cache left.", 1)
        generation = ScriptedGeneration(request, list(self.script(request)), self.chat_tokenizer, self.finish)
        self.generations.append(generation)
        return generation

    def starving(self) -> bool:
        return False

    def metrics(self) -> Iterable[Metric]:
        engine = EngineStats(
            kv_budget_bytes=4096,
            kv_used_bytes=1024,
            sequences=1,
            queued_jobs=0,
            steps=4,
            rows=8,
            busy_seconds=0.5,
        )
        lag = {"p50": 0.1, "p99": 1.0, "max": 2.0}
        return readings(
            engine, (), self.served, Traffic(), WeightTraffic(), hop_sessions=1, tasks=1, loop_lag=lag
        )

    def state(self, *, detail: bool) -> dict[str, Any]:
        return {
            "members": [],
            "detail": detail,
            "engine": {"queued_jobs": 0, "kv_used_bytes": 1024, "kv_budget_bytes": 4096},
            "weights": {"bytes_sent": 3, "bytes_received": 5, "wrong_chunks": 0, "fetching": {}},
        }


@dataclass(frozen=True)
class Served:
    """A running front door: its fake node, its address and its base URL."""

    front: FakeFrontDoor
    address: Address

    @property
    def url(self) -> str:
        return f"http://{self.address}"


async def in_this_process(
    tokenizer: ChatTokenizer, messages: Sequence[dict[str, Any]], options: dict[str, Any]
) -> str:
    return tokenizer.render(messages, **options)


@asynccontextmanager
async def serving(front: FakeFrontDoor | None = None, **settings: Any) -> AsyncIterator[Served]:
    """Serve a fake node over real HTTP on loopback; ``settings`` are those of ApiSettings."""
    front = front or FakeFrontDoor()
    server = ApiServer(
        front, replace(ApiSettings(listen=LOOPBACK), **settings), version="1.2.3", render=in_this_process
    )
    address = await server.start()
    try:
        yield Served(front, address)
    finally:
        await server.aclose(grace_seconds=0.5)


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until the condition holds; fail when it does not within the time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any condition of a test, not an event of its own
            await asyncio.sleep(0.01)


def state_of(*members: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a door that serves MODEL, in the shape of a real one."""
    model = {
        "name": MODEL,
        "digest": "0" * 64,
        "layers": 8,
        "servable": True,
        "missing": [],
        "problem": "",
    }
    return {"node": "a" * 32, "members": list(members), "models": [model], "engine": {}, "sessions": []}
