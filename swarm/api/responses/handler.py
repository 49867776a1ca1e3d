"""POST /v1/responses: from body to a whole or streamed response."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from swarm.api import params, sse
from swarm.api.asking import Asking, chat_text, grammar_for, new_id, rendered, template_kwargs
from swarm.api.choices import Answer
from swarm.api.errors import described
from swarm.api.pieces import Piece
from swarm.api.prompt import TemplateMessage
from swarm.api.responses.compaction import INSTRUCTION, CompactedResponse, compacted
from swarm.api.responses.conversation import input_messages, output_messages, with_instructions
from swarm.api.responses.events import Event, ResponseBuilder
from swarm.api.responses.objects import (
    InputTokensDetails,
    OutputTokensDetails,
    ResponseObject,
    ResponseUsage,
)
from swarm.api.responses.schemas import ReasoningOptions, ResponsesBody, TextOptions
from swarm.api.responses.store import ResponseStore
from swarm.api.structured import format_of
from swarm.api.tools.definitions import FunctionTool, tools_of
from swarm.api.tools.use import tool_use
from swarm.errors import OverloadedError, RequestError, SwarmError

_log = logging.getLogger(__name__)
_LOGPROBS = "message.output_text.logprobs"
_REFUSED = ("background", "conversation", "prompt")


@dataclass(frozen=True, slots=True)
class RunningResponse:
    """A response under way: take ``whole`` or ``events``, once."""

    answer: Answer
    builder: ResponseBuilder
    conversation: list[TemplateMessage]
    store: ResponseStore | None
    scope: str
    buffered: bool = False
    """Stream nothing before the answer is whole, and a call in place of the message."""

    @property
    def route(self) -> str:
        return self.answer.route

    async def whole(self) -> ResponseObject:
        """Raises SwarmError when the answer could not be completed."""
        self.builder.start()
        for piece in await self._all_pieces():
            self.builder.add(piece)
        self._finish()
        return self.builder.response

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events; ``response.failed``, and no ``[DONE]``, ends an answer that failed."""
        async with aclosing(self.numbered()) as events:
            async for event in events:
                yield sse.event(event.data, event.name)
        if self.builder.response.status != "failed":
            yield sse.DONE

    async def numbered(self) -> AsyncGenerator[Event, None]:
        """Yield events in their order; encode each at once."""
        for event in self.builder.start():
            yield event
        try:
            async with aclosing(self._pieces()) as running:
                async for piece in running:
                    for event in self.builder.add(piece):
                        yield event
        except SwarmError as exc:
            _log.warning("%s failed while streaming: %s", self.builder.response.id, exc)
            code = "rate_limit_exceeded" if isinstance(exc, OverloadedError) else "server_error"
            for event in self.builder.fail(code, described(exc)["error"]["message"]):
                yield event
            return
        for event in self._finish():
            yield event

    async def _pieces(self) -> AsyncGenerator[Piece, None]:
        if self.buffered:
            for piece in await self._all_pieces():
                yield piece
            return
        async with aclosing(self.answer.pieces()) as running:
            async for _, pieces in running:
                for piece in pieces or ():
                    yield piece

    async def _all_pieces(self) -> list[Piece]:
        """Return the whole answer; a call takes the place of the message, as the specification says."""
        whole = [piece async for _, pieces in self.answer.pieces() for piece in pieces or ()]
        called = any(piece.call is not None for piece in whole)
        return [piece for piece in whole if piece.kind != "content" or not called]

    def _finish(self) -> list[Event]:
        answer = self.answer
        tokens = answer.completion_tokens
        usage = ResponseUsage(
            input_tokens=answer.prompt_tokens,
            output_tokens=tokens,
            total_tokens=answer.prompt_tokens + tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=answer.cached_tokens),
            output_tokens_details=OutputTokensDetails(reasoning_tokens=answer.reasoning_tokens),
            swarm=answer.swarm_usage,
        )
        spent = answer.choices[0].finish_reason == "length"
        events = self.builder.finish(usage, spent=spent, now=int(time.time()))
        response = self.builder.response
        if self.store is not None:
            self.store.put(self.scope, response, [*self.conversation, *output_messages(response.output)])
        return events


async def create(
    asking: Asking, body: ResponsesBody, store: ResponseStore, before: Sequence[TemplateMessage] = ()
) -> RunningResponse:
    """Validate, render and reserve; ``before`` are messages that come before those of the body.

    Raises SwarmError; nothing has been sent to the client by then.
    """
    for name in _REFUSED:
        if getattr(body, name):
            raise RequestError(f"'{name}' is not supported.", param=name, code="unsupported_parameter")
    scope = asking.exchange.caller.scope
    settings = asking.settings
    conversation = [*before, *_conversation(asking, body, store)]
    tools = tools_of(body.tools, nested=False, ignore_others=settings.unsupported_tools == "ignore")
    # At most one call a response, whatever the request says, is the specification's rule.
    parallel = settings.parallel_tool_calls and body.parallel_tool_calls is not False
    use = tool_use(tools, body.tool_choice, parallel=parallel)
    form = format_of(body.text.format if body.text else None, "text.format", nested=False)
    top_logprobs = _top_logprobs(body)
    model = await asking.model(body.model)
    tokenizer = await asking.front.tokenizer(model.name)
    messages = with_instructions(body.instructions, conversation)
    effort = body.reasoning.effort if body.reasoning else None
    options = template_kwargs(body.chat_template_kwargs, effort)
    prompt = await rendered(asking, tokenizer, messages, use, options, param="input")
    grammar = await grammar_for(tokenizer, prompt, form, use)
    text_for = chat_text(
        tokenizer,
        prompt,
        use,
        logprobs=top_logprobs is not None,
        grammar=grammar,
        tool_parser=settings.tool_parser,
    )
    answer = await asking.open(
        body, model, tokenizer, [prompt], text_for, top_logprobs=top_logprobs, grammar=grammar
    )
    response = _response(body, asking.exchange.request_id, tools)
    namespaces = {tool.name: tool.namespace for tool in tools if tool.namespace is not None}
    stored = store if response.store else None
    buffered = use.active and settings.buffer_tools
    return RunningResponse(
        answer, ResponseBuilder(response, new_id, namespaces), conversation, stored, scope, buffered
    )


async def compact(asking: Asking, body: ResponsesBody, store: ResponseStore) -> CompactedResponse:
    """Answer POST /v1/responses/compact. Raises SwarmError."""
    conversation = _conversation(asking, body, store)
    summary = msgspec.structs.replace(
        body,
        input=INSTRUCTION,
        tools=None,
        tool_choice=None,
        text=None,
        store=False,
        previous_response_id=None,
    )
    running = await create(asking, summary, store, before=conversation)
    return await compacted(running, conversation, new_id)


def _conversation(asking: Asking, body: ResponsesBody, store: ResponseStore) -> list[TemplateMessage]:
    conversation = input_messages(body.input)
    if body.previous_response_id is None:
        return conversation
    return [*store.conversation(asking.exchange.caller.scope, body.previous_response_id), *conversation]


def _top_logprobs(body: ResponsesBody) -> int | None:
    wanted = _LOGPROBS in (body.include or ()) or bool(body.top_logprobs)
    return params.top_logprobs_of(wanted, body.top_logprobs)


def _response(body: ResponsesBody, request_id: str, tools: tuple[FunctionTool, ...]) -> ResponseObject:
    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    return ResponseObject(
        id="resp_" + request_id.removeprefix("req_"),
        created_at=int(time.time()),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens or body.max_completion_tokens or body.max_tokens,
        model=body.model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        presence_penalty=given(body.presence_penalty, 0.0),
        frequency_penalty=given(body.frequency_penalty, 0.0),
        previous_response_id=body.previous_response_id,
        reasoning=body.reasoning or ReasoningOptions(),
        store=body.store is not False,
        temperature=given(body.temperature, 1.0),
        text=_text_options(body.text),
        tool_choice=body.tool_choice or "auto",
        tools=[
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description or None,
                "parameters": tool.parameters,
                "strict": tool.strict,
            }
            for tool in tools
            if tool.namespace is None
        ]
        + [entry for entry in body.tools or () if entry.get("type") == "namespace"],
        top_logprobs=body.top_logprobs or 0,
        top_p=given(body.top_p, 1.0),
        user=body.user,
        max_tool_calls=body.max_tool_calls,
        prompt_cache_key=body.prompt_cache_key,
        safety_identifier=body.safety_identifier,
        metadata=body.metadata or {},
    )


def _text_options(given: TextOptions | None) -> dict[str, Any]:
    """Return ``text`` with the fields that OpenAI's own answers have."""
    form: dict[str, Any] = {"type": "text"}
    if given is not None and given.format:
        form = dict(given.format)
        if form.get("type") == "json_schema":
            form = {"name": "", "description": None, "strict": True, **form}
    told = {"verbosity": given.verbosity} if given is not None and given.verbosity else {}
    return {"format": form, **told}
