"""POST /v1/completions: text in, text out, without a chat template."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec
from msgspec import UNSET, UnsetType

from swarm.api import params, sse
from swarm.api.answers import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    TokenLogprobEntry,
    Usage,
    usage_of,
)
from swarm.api.asking import Asking, Prompt
from swarm.api.choices import Answer, Choice
from swarm.api.echo import Echo, joined
from swarm.api.errors import described
from swarm.api.ledger import TokenNames
from swarm.api.pieces import ChoiceText, Piece
from swarm.api.reasoning import PlainText
from swarm.api.schemas import CompletionBody
from swarm.errors import RequestError, SwarmError
from swarm.models.tokenizer import ChatTokenizer

_log = logging.getLogger(__name__)

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default of this endpoint; the specification's 1,000 is for chat and responses."""
MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class CompletionAnswer:
    """A running completion: take ``whole`` or ``events``, once. ``answer`` is None where nothing is generated."""

    id: str
    created: int
    model: str
    answer: Answer | None
    echoes: Sequence[Echo]
    """What each choice's text begins with: its prompt, when the request asked for an echo."""
    prompt_tokens: int
    logprobs: bool
    include_usage: bool
    names: TokenNames
    only_prompt: bool = False
    """The one token that was generated is not shown: only the prompt's log-probabilities were asked for."""
    _echoes_shown: set[int] = field(default_factory=set)
    _written: dict[int, int] = field(default_factory=dict)
    """Characters of each choice's text so far, for the offsets of its tokens."""

    @property
    def route(self) -> str:
        return self.answer.route if self.answer else ""

    async def whole(self) -> Completion:
        """Raises SwarmError when the answer could not be completed."""
        shown: list[list[Piece]] = [[] for _ in self.echoes]
        reasons = ["length"] * len(self.echoes)
        if self.answer is not None:
            async for choice, pieces in self.answer.pieces():
                shown[choice.index].extend(() if self.only_prompt else pieces or ())
            reasons = [self._reason(choice) for choice in self.answer.choices]
        choices = [
            self._choice(
                index,
                echo.text + "".join(piece.text for piece in shown[index]),
                [entry for piece in shown[index] for entry in piece.logprobs],
                reasons[index],
                offset=len(echo.text),
                before=self._echoed(index),
            )
            for index, echo in enumerate(self.echoes)
        ]
        return self._completion(choices, self._usage())

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events: an ``error`` event, never ``[DONE]``, ends an answer that failed."""
        for index, echo in enumerate(self.echoes):
            self._written[index] = len(echo.text)
            if self.answer is None:
                yield self._chunk(self._choice(index, echo.text, [], "length"))
            elif echo.tokens and not self.logprobs:
                yield self._chunk(self._choice(index, echo.text, [], None))
        try:
            if self.answer is not None:
                async with aclosing(self.answer.pieces()) as running:
                    async for choice, pieces in running:
                        for chunk in self._chunks(choice, pieces):
                            yield chunk
        except SwarmError as exc:
            _log.warning("%s failed while streaming: %s", self.id, exc)
            yield sse.event(described(exc), "error")
            return
        if self.include_usage:
            yield sse.event(self._completion([], self._usage()))
        yield sse.DONE

    def _chunks(self, choice: Choice, pieces: list[Piece] | None) -> list[bytes]:
        chunks = []
        if self.logprobs and self.echoes[choice.index].tokens and choice.index not in self._echoes_shown:
            # The prompt's log-probabilities are known when the first token is.
            self._echoes_shown.add(choice.index)
            text, before = self.echoes[choice.index].text, self._echoed(choice.index)
            chunks.append(self._chunk(self._choice(choice.index, text, [], None, before=before)))
        if pieces is None:
            return [*chunks, self._chunk(self._choice(choice.index, "", [], self._reason(choice)))]
        for piece in () if self.only_prompt else pieces:
            offset = self._written[choice.index]
            self._written[choice.index] += len(piece.text)
            chunks.append(
                self._chunk(self._choice(choice.index, piece.text, piece.logprobs, None, offset=offset))
            )
        return chunks

    def _reason(self, choice: Choice) -> str:
        return "length" if self.only_prompt else choice.finish_reason or "stop"

    def _echoed(self, index: int) -> CompletionLogprobs | None:
        echo = self.echoes[index]
        if self.answer is None or not (self.logprobs and echo.tokens):
            return None
        return echo.logprobs(self.names, self.answer.choices[index].generation.prompt_logprobs)

    def _choice(
        self,
        index: int,
        text: str,
        entries: list[TokenLogprobEntry],
        reason: str | None,
        *,
        offset: int = 0,
        before: CompletionLogprobs | None = None,
    ) -> CompletionChoice:
        if not self.logprobs:
            return CompletionChoice(index, text, reason)
        logprobs = _logprobs(entries, offset)
        return CompletionChoice(index, text, reason, joined(before, logprobs) if before else logprobs)

    def _chunk(self, choice: CompletionChoice) -> bytes:
        return sse.event(self._completion([choice], None if self.include_usage else UNSET))

    def _completion(self, choices: list[CompletionChoice], usage: Usage | UnsetType | None) -> Completion:
        return Completion(id=self.id, created=self.created, model=self.model, choices=choices, usage=usage)

    def _usage(self) -> Usage:
        answer = self.answer
        return usage_of(
            self.prompt_tokens,
            answer.completion_tokens if answer and not self.only_prompt else 0,
            cached=answer.cached_tokens if answer else 0,
            swarm=answer.swarm_usage if answer else UNSET,
        )


async def create(asking: Asking, body: CompletionBody) -> CompletionAnswer:
    """Validate, encode and reserve. Raises SwarmError; nothing has been sent to the client by then."""
    choices = params.choices_of(body.n)
    top_logprobs = None
    if body.logprobs is not None:
        top_logprobs = params.integer("logprobs", body.logprobs, 0, 0, MAX_LOGPROBS)
    scores_prompt = bool(body.echo) and top_logprobs is not None
    only_prompt = scores_prompt and body.max_tokens == 0
    _refuse(body, choices)
    model = await asking.model(body.model)
    tokenizer = await asking.front.tokenizer(model.name)
    prompts, texts = _prompts(tokenizer, body.prompt)
    if len(prompts) * choices > params.MAX_CHOICES:
        raise RequestError(
            f"Invalid 'prompt': {len(prompts)} prompts of {choices} choices are more than {params.MAX_CHOICES}.",
            param="prompt",
            code="array_above_max_length",
        )
    answer = None
    if body.max_tokens != 0 or scores_prompt:

        def text_for(stops: tuple[str, ...]) -> ChoiceText:
            return ChoiceText(tokenizer, splitter=PlainText(), stops=stops, logprobs=top_logprobs is not None)

        answer = await asking.open(
            msgspec.structs.replace(body, max_tokens=1) if only_prompt else body,
            model,
            tokenizer,
            prompts,
            text_for,
            choices=choices,
            top_logprobs=top_logprobs,
            default_max_tokens=DEFAULT_MAX_TOKENS,
            prompt_logprobs=top_logprobs if scores_prompt else None,
            operation="text_completion",
        )
    return CompletionAnswer(
        id="cmpl-" + asking.exchange.request_id.removeprefix("req_"),
        created=int(time.time()),
        model=body.model,
        answer=answer,
        echoes=[
            Echo(text, prompt.tokens) if body.echo else Echo()
            for prompt, text in zip(prompts, texts, strict=True)
            for _ in range(choices)
        ],
        prompt_tokens=sum(len(prompt.tokens) for prompt in prompts),
        logprobs=top_logprobs is not None,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        names=tokenizer,
        only_prompt=only_prompt,
    )


def _refuse(body: CompletionBody, choices: int) -> None:
    """Refuse what can't be honoured: ignoring it would give a wrong answer."""
    if body.suffix:
        raise RequestError("'suffix' is not supported.", param="suffix", code="unsupported_parameter")
    if body.best_of is not None and body.best_of != choices:
        raise RequestError(
            "'best_of' is supported only when it equals 'n'.", param="best_of", code="unsupported_parameter"
        )


def _prompts(tokenizer: ChatTokenizer, given: object) -> tuple[list[Prompt], list[str]]:
    """Return the prompts and their texts: a string, strings, token ids, or lists of token ids."""
    several: list[object] = given if isinstance(given, list) and not _are_ids(given) else [given]
    prompts: list[Prompt] = []
    texts: list[str] = []
    for at, one in enumerate(several):
        param = "prompt" if one is given else f"prompt[{at}]"
        if isinstance(one, str):
            tokens, text = tokenizer.encode(one, special=True), one
        elif isinstance(one, list) and _are_ids(one):
            tokens = _known(tokenizer, one, param)
            text = tokenizer.decode(tokens)
        else:
            raise RequestError(
                f"Invalid type for '{param}': expected a string, or an array of strings, of token ids, "
                "or of arrays of token ids.",
                param=param,
                code="missing_required_parameter" if one is None else "invalid_type",
            )
        if not tokens:
            raise RequestError(f"Invalid '{param}': it is empty.", param=param, code="invalid_value")
        prompts.append(Prompt(tuple(tokens), param=param))
        texts.append(text)
    if not prompts:
        raise RequestError("Invalid 'prompt': empty array.", param="prompt", code="empty_array")
    return prompts, texts


def _are_ids(value: list[object]) -> bool:
    return bool(value) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def _known(tokenizer: ChatTokenizer, ids: list[object], param: str) -> list[int]:
    tokens = [token for token in ids if isinstance(token, int) and 0 <= token < tokenizer.vocab_size]
    if len(tokens) != len(ids):
        raise RequestError(
            f"Invalid '{param}': token ids are 0 to {tokenizer.vocab_size - 1}.",
            param=param,
            code="invalid_value",
        )
    return tokens


def _logprobs(entries: list[TokenLogprobEntry], offset: int) -> CompletionLogprobs:
    offsets: list[int] = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.token)
    return CompletionLogprobs(
        tokens=[entry.token for entry in entries],
        token_logprobs=[entry.logprob for entry in entries],
        top_logprobs=[{top.token: top.logprob for top in entry.top_logprobs} for entry in entries],
        text_offset=offsets,
    )
