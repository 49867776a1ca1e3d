"""POST /v1/chat/completions: the shape of its answers, whole and streamed."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET, UnsetType

from swarm.api import params, sse
from swarm.api.answers import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatMessage,
    ChoiceLogprobs,
    TokenLogprobEntry,
    Usage,
    usage_of,
)
from swarm.api.asking import Asking, rendered
from swarm.api.choices import Answer, Choice
from swarm.api.errors import described
from swarm.api.pieces import Piece
from swarm.api.prompt import template_messages
from swarm.api.schemas import ChatBody
from swarm.errors import SwarmError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A running chat completion: take ``whole`` or ``events``, once."""

    id: str
    created: int
    model: str
    answer: Answer
    logprobs: bool
    include_usage: bool

    @property
    def route(self) -> str:
        return self.answer.route

    async def whole(self) -> ChatCompletion:
        """Raises SwarmError when the answer could not be completed."""
        shown: list[list[Piece]] = [[] for _ in self.answer.choices]
        async for choice, pieces in self.answer.pieces():
            shown[choice.index].extend(pieces or ())
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[self._choice(choice, shown[choice.index]) for choice in self.answer.choices],
            usage=self._usage(),
        )

    async def events(self) -> AsyncIterator[bytes]:
        """Yield server-sent events: an ``error`` event, never ``[DONE]``, ends an answer that failed."""
        for choice in self.answer.choices:
            yield self._chunk(choice.index, ChatDelta(role="assistant", content=""))
        try:
            async with aclosing(self.answer.pieces()) as running:
                async for choice, pieces in running:
                    if pieces is None:
                        yield self._chunk(choice.index, ChatDelta(), finish_reason=choice.finish_reason)
                    for piece in pieces or ():
                        yield self._chunk(
                            choice.index, _delta(piece), logprobs=self._logprobs(piece.logprobs)
                        )
        except SwarmError as exc:
            _log.warning("%s failed while streaming: %s", self.id, exc)
            yield sse.event(described(exc), "error")
            return
        if self.include_usage:
            yield sse.event(self._chunk_of([], self._usage()))
        yield sse.DONE

    def _choice(self, choice: Choice, pieces: list[Piece]) -> ChatChoice:
        content = "".join(piece.text for piece in pieces if piece.kind == "content")
        reasoning = "".join(piece.text for piece in pieces if piece.kind == "reasoning")
        return ChatChoice(
            index=choice.index,
            message=ChatMessage(content=content, reasoning_content=reasoning or UNSET),
            finish_reason=choice.finish_reason or "stop",
            logprobs=self._logprobs([entry for piece in pieces for entry in piece.logprobs]),
        )

    def _logprobs(self, entries: list[TokenLogprobEntry]) -> ChoiceLogprobs | None:
        return ChoiceLogprobs(entries) if self.logprobs else None

    def _usage(self) -> Usage:
        answer = self.answer
        return usage_of(
            answer.prompt_tokens,
            answer.completion_tokens,
            cached=answer.cached_tokens,
            reasoning=answer.reasoning_tokens,
        )

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        *,
        finish_reason: str | None = None,
        logprobs: ChoiceLogprobs | None = None,
    ) -> bytes:
        usage = None if self.include_usage else UNSET
        return sse.event(self._chunk_of([ChatChunkChoice(index, delta, finish_reason, logprobs)], usage))

    def _chunk_of(self, choices: list[ChatChunkChoice], usage: Usage | UnsetType | None) -> ChatChunk:
        return ChatChunk(id=self.id, created=self.created, model=self.model, choices=choices, usage=usage)


async def create(asking: Asking, body: ChatBody) -> ChatAnswer:
    """Validate, render and reserve. Raises SwarmError; nothing has been sent to the client by then."""
    messages = template_messages(body.messages)
    choices = params.choices_of(body.n)
    top_logprobs = params.top_logprobs_of(body.logprobs, body.top_logprobs)
    model = asking.model(body.model)
    tokenizer = await asking.front.tokenizer(model.name)
    prompt = await rendered(tokenizer, messages, _template_options(body))
    answer = await asking.open(body, model, tokenizer, prompt, choices=choices, top_logprobs=top_logprobs)
    return ChatAnswer(
        id="chatcmpl-" + asking.exchange.request_id.removeprefix("req_"),
        created=int(time.time()),
        model=body.model,
        answer=answer,
        logprobs=top_logprobs is not None,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )


def _template_options(body: ChatBody) -> dict[str, Any]:
    options = dict(body.chat_template_kwargs or {})
    options["add_generation_prompt"] = body.add_generation_prompt is not False
    return options


def _delta(piece: Piece) -> ChatDelta:
    if piece.kind == "reasoning":
        return ChatDelta(reasoning_content=piece.text)
    return ChatDelta(content=piece.text)
