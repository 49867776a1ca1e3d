"""What the front door answers, as msgspec structs, encoded as they stand.

The OpenAPI document describes these very structs. Knows no framework.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType


class ErrorObject(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct):
    """The body of every answer that is not a success."""

    error: ErrorObject


class PromptTokensDetails(msgspec.Struct):
    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct):
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class UsedHop(msgspec.Struct):
    """One node's part of an answer."""

    node: str
    name: str
    layers: str
    """Half open: ``10:20`` is layers 10 to 19."""
    compute_ms: float
    queue_ms: float
    quantize: str
    """In how many bits the node holds these layers' weights: none, int8 or int4."""


class SwarmUsage(msgspec.Struct):
    """The path of the first choice; there when the request's ``swarm.route`` asks for it."""

    route: list[UsedHop]


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    swarm: SwarmUsage | UnsetType = UNSET


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobEntry(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(msgspec.Struct):
    content: list[TokenLogprobEntry]
    refusal: None = None


class CalledFunction(msgspec.Struct):
    name: str
    arguments: str
    """A JSON document."""


class ChatToolCall(msgspec.Struct):
    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct):
    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ChatToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct):
    index: int
    message: ChatMessage
    finish_reason: str
    logprobs: ChoiceLogprobs | None = None


class ChatCompletion(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    object: Literal["chat.completion"] = "chat.completion"
    system_fingerprint: str | None = None


class CalledFunctionDelta(msgspec.Struct):
    arguments: str
    name: str | UnsetType = UNSET


class ChatToolCallDelta(msgspec.Struct):
    """``index`` is in every delta; ``id``, ``type`` and the name only in a call's first."""

    index: int
    function: CalledFunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(msgspec.Struct):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ChatToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct):
    index: int
    delta: ChatDelta
    finish_reason: str | None = None
    logprobs: ChoiceLogprobs | None = None


class ChatChunk(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    system_fingerprint: str | None = None
    usage: Usage | UnsetType | None = UNSET


class CompletionLogprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float | None]
    """None for the first token of an echoed prompt."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """Where each token begins in the choice's text, in characters."""


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    finish_reason: str | None
    logprobs: CompletionLogprobs | None = None


class Completion(msgspec.Struct):
    """A whole completion, and each chunk of a streamed one."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    object: Literal["text_completion"] = "text_completion"
    system_fingerprint: str | None = None
    usage: Usage | UnsetType | None = UNSET


class Model(msgspec.Struct):
    id: str
    created: int
    servable: bool
    object: Literal["model"] = "model"
    owned_by: str = "swarm"


class ModelList(msgspec.Struct):
    data: list[Model]
    object: Literal["list"] = "list"


class ModelHealth(msgspec.Struct):
    id: str
    servable: bool
    missing: list[str]
    """Spans that no live node holds, half open: ``17:24`` is the seven from 17 on."""
    problem: str


class Health(msgspec.Struct):
    status: Literal["ok", "degraded", "unavailable"]
    models: list[ModelHealth]


class Version(msgspec.Struct):
    version: str
    name: Literal["swarm"] = "swarm"


def usage_of(
    prompt: int,
    completion: int,
    *,
    cached: int = 0,
    reasoning: int = 0,
    swarm: SwarmUsage | UnsetType = UNSET,
) -> Usage:
    """Return the usage of an answer; all counts are tokens."""
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=reasoning),
        swarm=swarm,
    )
