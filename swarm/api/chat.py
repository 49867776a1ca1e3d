"""POST /v1/chat/completions: the shape of its answers, whole and streamed."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from msgspec import UNSET, UnsetType

from swarm.api import params, sse
from swarm.api.answers import (
    CalledFunction,
    CalledFunctionDelta,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatMessage,
    ChatToolCall,
    ChatToolCallDelta,
    ChoiceLogprobs,
    TokenLogprobEntry,
    Usage,
    usage_of,
)
from swarm.api.asking import Asking, chat_text, grammar_for, new_id, rendered, template_kwargs
from swarm.api.choices import Answer, Choice
from swarm.api.errors import described
from swarm.api.pieces import Piece
from swarm.api.prompt import template_messages
from swarm.api.schemas import ChatBody
from swarm.api.structured import format_of
from swarm.api.tools.calls import Call
from swarm.api.tools.definitions import tools_of
from swarm.api.tools.use import ToolUse, tool_use
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
    _calls_begun: Counter[int] = field(default_factory=Counter)

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
                        for delta in self._deltas(choice.index, piece):
                            logprobs = self._logprobs(piece.logprobs) if piece.call is None else None
                            yield self._chunk(choice.index, delta, logprobs=logprobs)
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
        calls = [_tool_call(piece.call) for piece in pieces if piece.call is not None]
        return ChatChoice(
            index=choice.index,
            message=ChatMessage(
                content=content if content.strip() or not calls else None,
                reasoning_content=reasoning or UNSET,
                tool_calls=calls or UNSET,
            ),
            finish_reason=choice.finish_reason or "stop",
            logprobs=self._logprobs([entry for piece in pieces for entry in piece.logprobs]),
        )

    def _deltas(self, index: int, piece: Piece) -> list[ChatDelta]:
        if piece.kind == "reasoning":
            return [ChatDelta(reasoning_content=piece.text)]
        if piece.call is None:
            return [ChatDelta(content=piece.text)]
        place = self._calls_begun[index]
        self._calls_begun[index] += 1
        name, arguments = piece.call.name, piece.call.arguments
        first = ChatToolCallDelta(place, CalledFunctionDelta("", name), id=new_id("call"), type="function")
        rest = ChatToolCallDelta(place, CalledFunctionDelta(arguments))
        return [ChatDelta(tool_calls=[first]), ChatDelta(tool_calls=[rest])]

    def _logprobs(self, entries: list[TokenLogprobEntry]) -> ChoiceLogprobs | None:
        return ChoiceLogprobs(entries) if self.logprobs else None

    def _usage(self) -> Usage:
        answer = self.answer
        return usage_of(
            answer.prompt_tokens,
            answer.completion_tokens,
            cached=answer.cached_tokens,
            reasoning=answer.reasoning_tokens,
            swarm=answer.swarm_usage,
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
    tools = _tool_use(body, ignore_others=asking.settings.unsupported_tools == "ignore")
    form = format_of(body.response_format, "response_format", nested=True)
    choices = params.choices_of(body.n)
    top_logprobs = params.top_logprobs_of(body.logprobs, body.top_logprobs)
    model = await asking.model(body.model)
    tokenizer = await asking.front.tokenizer(model.name)
    prompt = await rendered(asking, tokenizer, messages, tools, _template_options(body))
    grammar = await grammar_for(tokenizer, prompt, form, tools)
    text_for = chat_text(
        tokenizer,
        prompt,
        tools,
        logprobs=top_logprobs is not None,
        grammar=grammar,
        tool_parser=asking.settings.tool_parser,
    )
    answer = await asking.open(
        body,
        model,
        tokenizer,
        [prompt],
        text_for,
        choices=choices,
        top_logprobs=top_logprobs,
        grammar=grammar,
    )
    return ChatAnswer(
        id="chatcmpl-" + asking.exchange.request_id.removeprefix("req_"),
        created=int(time.time()),
        model=body.model,
        answer=answer,
        logprobs=top_logprobs is not None,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
    )


def _tool_use(body: ChatBody, *, ignore_others: bool) -> ToolUse:
    tools = tools_of(body.tools, nested=True, ignore_others=ignore_others)
    return tool_use(tools, body.tool_choice, parallel=body.parallel_tool_calls is not False)


def _template_options(body: ChatBody) -> dict[str, Any]:
    options = template_kwargs(body.chat_template_kwargs, body.reasoning_effort)
    options["add_generation_prompt"] = body.add_generation_prompt is not False
    if body.continue_final_message:
        options["continue_final_message"] = True
        options["add_generation_prompt"] = bool(body.add_generation_prompt)
    return options


def _tool_call(call: Call) -> ChatToolCall:
    return ChatToolCall(new_id("call"), CalledFunction(call.name, call.arguments))
