"""From a parsed body to a running answer: the steps every generating endpoint shares.

Knows the node's interface and the request's exchange; knows no shape of an answer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from swarm.api.account import Operation
from swarm.api.admission import Admission
from swarm.api.choices import Answer, open_answer
from swarm.api.errors import ModelUnavailableError
from swarm.api.exchange import Exchange
from swarm.api.metrics import Metrics
from swarm.api.params import limits_of, min_tokens_bans, path_wishes_of, sampling_of
from swarm.api.pieces import ChoiceText
from swarm.api.prompt import TemplateMessage, with_one_system_message
from swarm.api.reasoning import CLOSE as THINK_CLOSE
from swarm.api.reasoning import ReasoningSplitter, Splitter, closes_reasoning, opens_reasoning
from swarm.api.schemas import GenerationFields
from swarm.api.structured import Format, grammar_of
from swarm.api.tools.choose import MARKERS, family_of, parser_for
from swarm.api.tools.harmony import HarmonySplitter
from swarm.api.tools.instructions import with_plain_calls, with_tool_block
from swarm.api.tools.use import ToolUse
from swarm.config import ApiSettings
from swarm.engine.params import Grammar
from swarm.errors import ContextLengthError, ModelError, RequestError
from swarm.models.template_process import TemplateLimitError
from swarm.models.tokenizer import ChatTokenizer
from swarm.node.front import FrontDoor, GenerationRequest, ServedModel

_LARGE_CHARACTERS = 16384
Render = Callable[[ChatTokenizer, Sequence[TemplateMessage], dict[str, Any]], Awaitable[str]]
"""Renders a conversation by a model's template. Raises RequestError, or ModelError when it has none."""
_TEMPLATE_FIELDS = frozenset({"self", "messages", "tools", "add_generation_prompt", "continue_final_message"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered and encoded prompt. ``inside_reasoning``: its template opened the block itself."""

    tokens: tuple[int, ...]
    inside_reasoning: bool = False
    closed_reasoning: bool = False
    """Its template wrote an empty block, so that the model does not reason."""
    param: str = "messages"
    """The request's field it was made from."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What an endpoint needs to answer: the node, the settings and this request's exchange."""

    front: FrontDoor
    settings: ApiSettings
    exchange: Exchange
    metrics: Metrics
    render: Render
    admission: Admission

    async def model(self, name: str) -> ServedModel:
        """Return a model that this door serves, once what it lacks of it is here.

        Raises as FrontDoor.ready does, and ModelUnavailableError when its files can't be had.
        """
        try:
            return await self.front.ready(name)
        except ModelError as exc:
            raise ModelUnavailableError(name, str(exc)) from exc

    async def open(
        self,
        body: GenerationFields,
        model: ServedModel,
        tokenizer: ChatTokenizer,
        prompts: Sequence[Prompt],
        text_for: Callable[[tuple[str, ...]], ChoiceText],
        *,
        choices: int = 1,
        top_logprobs: int | None = None,
        grammar: Grammar | None = None,
        default_max_tokens: int | None = None,
        prompt_logprobs: int | None = None,
        operation: Operation = "chat",
    ) -> Answer:
        """Reserve a path for every choice of every prompt; ``text_for`` makes each one's text from its stop strings.

        Raises SwarmError; the client has seen nothing yet.
        """
        for prompt in prompts:
            if len(prompt.tokens) >= model.context_tokens:
                raise ContextLengthError(len(prompt.tokens), model.context_tokens, prompt.param)
        limits = limits_of(
            body,
            default_max_tokens=default_max_tokens or self.settings.default_max_tokens,
            context_tokens=model.context_tokens,
            deadline_seconds=self.exchange.timeout_seconds or self.settings.request_seconds,
        )
        sampling = sampling_of(body, random_seed=secrets.randbits(63), top_logprobs=top_logprobs)
        wishes = path_wishes_of(body.swarm)
        ends = limits.stop_token_ids | tokenizer.stop_ids
        sampling = replace(sampling, banned_until=min_tokens_bans(body, limits.max_tokens, ends))
        request = GenerationRequest(
            request_id=self.exchange.request_id,
            model=model.name,
            prompt=(),
            sampling=sampling,
            max_tokens=limits.max_tokens,
            ignore_eos=limits.ignore_eos,
            stop_token_ids=limits.stop_token_ids,
            deadline_seconds=limits.deadline_seconds,
            streamed=bool(body.stream),
            grammar=grammar,
            scope=self.exchange.caller.scope,
            trust=wishes.trust,
            max_hops=wishes.max_hops,
            prefer=wishes.prefer,
            prompt_logprobs=prompt_logprobs,
        )
        account = self.exchange.account
        account.operation, account.model = operation, model.name
        account.streamed = bool(body.stream)
        return await open_answer(
            self.front,
            [
                replace(request, prompt=prompt.tokens, sampling=replace(sampling, choice=index))
                for prompt in prompts
                for index in range(choices)
            ],
            [text_for(limits.stop) for _ in range(choices * len(prompts))],
            self.exchange,
            metrics=self.metrics,
            admission=self.admission,
            tells_route=wishes.tells_route,
        )


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def template_kwargs(given: dict[str, Any] | None, effort: str | None) -> dict[str, Any]:
    """Return a request's own template settings; ``effort`` is how much a model may reason, in OpenAI's words.

    Templates know it under that name, or only whether to reason at all. Raises RequestError for settings that other
    fields say.
    """
    given = dict(given or {})
    if taken := given.keys() & _TEMPLATE_FIELDS:
        name = min(taken)
        raise RequestError(
            f"Invalid 'chat_template_kwargs': {name} can't be set there.",
            param=f"chat_template_kwargs.{name}",
            code="invalid_value",
        )
    if effort is None:
        return given
    told = {"enable_thinking": False} if effort == "none" else {"reasoning_effort": effort}
    return told | given


async def grammar_for(
    tokenizer: ChatTokenizer, prompt: Prompt, form: Format, tools: ToolUse
) -> Grammar | None:
    """Return what the answer is held to after its reasoning, if it has any. Raises RequestError."""
    reasoning: Literal["none", "optional", "open"] = "none"
    if prompt.inside_reasoning:
        reasoning = "open"
    elif THINK_CLOSE in (tokenizer.chat_template or "") and not prompt.closed_reasoning:
        reasoning = "optional"
    return await grammar_of(form, tools, reasoning)


async def rendered(
    asking: Asking,
    tokenizer: ChatTokenizer,
    messages: Sequence[TemplateMessage],
    tools: ToolUse,
    options: dict[str, Any],
    *,
    param: str = "messages",
) -> Prompt:
    """Render and encode a conversation; long ones are encoded in a thread, so that other streams go on."""
    if tokenizer.takes_tools:
        if tools.active:
            options = {**options, "tools": [tool.for_template() for tool in tools.tools]}
    else:
        messages = with_plain_calls(messages)
        if tools.active:
            messages = with_tool_block(messages, tools.tools)
    try:
        text = await _rendered_text(asking.render, tokenizer, messages, options)
    except ModelError as exc:
        raise RequestError(str(exc), param=param, code="no_chat_template") from exc
    if len(text) < _LARGE_CHARACTERS:
        tokens = tokenizer.encode(text, special=False)
    else:
        tokens = await asyncio.to_thread(tokenizer.encode, text, special=False)
    return Prompt(tuple(tokens), opens_reasoning(text), closes_reasoning(text), param)


async def _rendered_text(
    render: Render, tokenizer: ChatTokenizer, messages: Sequence[TemplateMessage], options: dict[str, Any]
) -> str:
    try:
        return await render(tokenizer, messages, options)
    except TemplateLimitError:
        raise
    except RequestError:
        merged = with_one_system_message(messages)
        if merged == list(messages):
            raise
        return await render(tokenizer, merged, options)


def chat_text(
    tokenizer: ChatTokenizer,
    prompt: Prompt,
    tools: ToolUse,
    *,
    logprobs: bool,
    grammar: Grammar | None,
    tool_parser: str = "auto",
) -> Callable[[tuple[str, ...]], ChoiceText]:
    """Return what makes a choice's text in the formats that this model's template teaches it.

    Under a grammar calls are bare JSON, whatever the template teaches.
    """
    family = tool_parser
    if grammar is not None:
        family = "json"
    elif tool_parser == "auto":
        family = family_of(tokenizer.chat_template, takes_tools=tokenizer.takes_tools)

    def text_for(stops: tuple[str, ...]) -> ChoiceText:
        splitter: Splitter = ReasoningSplitter(inside=prompt.inside_reasoning)
        parser = None
        if family == "harmony":
            splitter = HarmonySplitter()
        elif tools.active:
            parser = parser_for(family, tools.tools)
        return ChoiceText(
            tokenizer,
            splitter=splitter,
            stops=stops,
            tools=parser,
            markers=MARKERS if tools.active or family == "harmony" else (),
            one_call=tools.active and not tools.parallel,
            logprobs=logprobs,
        )

    return text_for
