"""From a parsed body to a running answer: the steps every generating endpoint shares.

Knows the node's interface and the request's exchange; knows no shape of an answer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from swarm.api.choices import Answer, open_answer
from swarm.api.errors import ModelUnavailableError
from swarm.api.exchange import Exchange
from swarm.api.params import limits_of, min_tokens_bans, sampling_of
from swarm.api.pieces import ChoiceText
from swarm.api.prompt import TemplateMessage, with_one_system_message
from swarm.api.reasoning import opens_reasoning
from swarm.api.schemas import GenerationFields
from swarm.config import ApiSettings
from swarm.errors import ContextLengthError, NoPathError, RequestError, UnknownModelError
from swarm.models.tokenizer import ChatTokenizer
from swarm.node.front import FrontDoor, GenerationRequest, ServedModel

_LARGE_CHARACTERS = 16384


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered and encoded prompt. ``inside_reasoning``: its template opened the block itself."""

    tokens: tuple[int, ...]
    inside_reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Asking:
    """What an endpoint needs to answer: the node, the settings and this request's exchange."""

    front: FrontDoor
    settings: ApiSettings
    exchange: Exchange

    def model(self, name: str) -> ServedModel:
        """Raises UnknownModelError, NoPathError or ModelUnavailableError before anything is computed."""
        models = self.front.models()
        for model in models:
            if model.name == name:
                if model.missing:
                    raise NoPathError(model.name, model.missing)
                if model.problem:
                    raise ModelUnavailableError(model.name, model.problem)
                return model
        raise UnknownModelError(name, [model.name for model in models])

    async def open(
        self,
        body: GenerationFields,
        model: ServedModel,
        tokenizer: ChatTokenizer,
        prompt: Prompt,
        *,
        choices: int = 1,
        top_logprobs: int | None = None,
    ) -> Answer:
        """Reserve a path for every choice. Raises SwarmError; the client has seen nothing yet."""
        if len(prompt.tokens) >= model.context_tokens:
            raise ContextLengthError(len(prompt.tokens), model.context_tokens)
        limits = limits_of(
            body,
            default_max_tokens=self.settings.default_max_tokens,
            context_tokens=model.context_tokens,
            deadline_seconds=self.exchange.timeout_seconds or self.settings.request_seconds,
        )
        sampling = sampling_of(body, random_seed=secrets.randbits(63), top_logprobs=top_logprobs)
        ends = limits.stop_token_ids | tokenizer.stop_ids
        sampling = replace(sampling, banned_until=min_tokens_bans(body, limits.max_tokens, ends))
        request = GenerationRequest(
            request_id=self.exchange.request_id,
            model=model.name,
            prompt=prompt.tokens,
            sampling=sampling,
            max_tokens=limits.max_tokens,
            ignore_eos=limits.ignore_eos,
            stop_token_ids=limits.stop_token_ids,
            deadline_seconds=limits.deadline_seconds,
            scope=self.exchange.caller.scope,
        )
        names = None if top_logprobs is None else tokenizer
        return await open_answer(
            self.front,
            [replace(request, sampling=replace(sampling, choice=index)) for index in range(choices)],
            [
                ChoiceText(limits.stop, inside_reasoning=prompt.inside_reasoning, names=names)
                for _ in range(choices)
            ],
            self.exchange.cleanup,
        )


async def rendered(
    tokenizer: ChatTokenizer, messages: Sequence[TemplateMessage], options: dict[str, Any]
) -> Prompt:
    """Render and encode a conversation; long ones in a thread, so that other streams go on."""
    size = sum(len(message["content"]) for message in messages)
    if size < _LARGE_CHARACTERS:
        return _render(tokenizer, messages, options)
    return await asyncio.to_thread(_render, tokenizer, messages, options)


def _render(tokenizer: ChatTokenizer, messages: Sequence[TemplateMessage], options: dict[str, Any]) -> Prompt:
    try:
        text = tokenizer.render(list(messages), **options)
    except RequestError:
        merged = with_one_system_message(messages)
        if merged == list(messages):
            raise
        text = tokenizer.render(merged, **options)
    return Prompt(tuple(tokenizer.encode(text, special=False)), opens_reasoning(text))
