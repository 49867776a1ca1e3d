"""The OpenAPI document, made from the structs that parse and encode. Knows no framework."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from swarm.api.answers import ChatCompletion, Completion, ErrorAnswer, Health, Model, ModelList, Version
from swarm.api.responses.compaction import CompactedResponse
from swarm.api.responses.objects import ResponseObject
from swarm.api.responses.schemas import ResponsesBody
from swarm.api.schemas import ChatBody, CompletionBody, GenerationFields

_REF = "#/components/schemas/{name}"
_ERRORS = {
    "400": "The request is wrong; param names the field",
    "401": "The API key is wrong",
    "403": "A web page of another origin asks",
    "404": "There is no such model, response or path",
    "408": "The body did not arrive in time",
    "413": "The body is too large",
    "415": "The body is not application/json",
    "421": "The Host header names another server",
    "429": "Too many requests at once; see Retry-After",
    "500": "A fault of the server",
    "503": "No path computes this model now; see Retry-After",
}
_PROMPT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}


@dataclass(frozen=True, slots=True)
class _Operation:
    method: str
    path: str
    summary: str
    answer: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    parameter: str | None = None
    unavailable: type[msgspec.Struct] | None = None
    """What 503 answers with when it is no error object."""
    content: tuple[str, ...] = ("application/json",)
    """Media types of the answer; all but JSON are described as text."""


_OPERATIONS = (
    _Operation("post", "/v1/chat/completions", "Answer a conversation", ChatCompletion, ChatBody),
    _Operation("post", "/v1/responses", "Answer with the Responses API", ResponseObject, ResponsesBody),
    _Operation(
        "post",
        "/v1/responses/compact",
        "Shorten a conversation to a summary",
        CompactedResponse,
        ResponsesBody,
    ),
    _Operation(
        "get", "/v1/responses/{response_id}", "A stored response", ResponseObject, parameter="response_id"
    ),
    _Operation("delete", "/v1/responses/{response_id}", "Forget a stored response", parameter="response_id"),
    _Operation("post", "/v1/completions", "Continue a text", Completion, CompletionBody),
    _Operation("get", "/v1/models", "The models of this swarm", ModelList),
    _Operation("get", "/v1/models/{model}", "One model; its id may hold a slash", Model, parameter="model"),
    _Operation("get", "/health", "Which models can be served", Health, unavailable=Health),
    _Operation("get", "/metrics", "Counters, in Prometheus' text format", content=("text/plain",)),
    _Operation("get", "/version", "This server's version", Version),
    _Operation("get", "/openapi.json", "This document"),
    _Operation("get", "/swarm/state", "Members, spans, links and sessions"),
    _Operation(
        "get",
        "/swarm/events",
        "What /swarm/state says, as events named `state`, whenever it changes; until the client leaves",
        content=("text/event-stream",),
    ),
    _Operation("get", "/", "A page for people: the swarm as a picture, and a chat", content=("text/html",)),
    _Operation(
        "get",
        "/page/{file}",
        "What that page loads",
        parameter="file",
        content=("text/css", "text/javascript", "image/svg+xml"),
    ),
)


@lru_cache(maxsize=8)
def document(version: str, models: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the document as JSON values, with ``models`` for examples; the caller must not change it."""
    structs: set[type[msgspec.Struct]] = {
        ErrorAnswer,
        *(kind for op in _OPERATIONS for kind in (op.answer, op.body) if kind),
    }
    ordered = sorted(structs, key=lambda struct: struct.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    components["CompletionBody"]["properties"]["prompt"] = _PROMPT
    for struct in ordered if models else ():
        if issubclass(struct, GenerationFields):
            components[struct.__name__]["properties"]["model"]["examples"] = list(models)
    paths: dict[str, dict[str, Any]] = {}
    for operation in _OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "swarm",
            "version": version,
            "description": "OpenAI-compatible API of a swarm. Every path under /v1 is served without it too, "
            "and `/v1/responses` also as a WebSocket, a message a request.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _described(operation: _Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method}_{operation.path.strip('/').replace('/', '_')}".translate(
            {ord("{"): None, ord("}"): None}
        ),
        "responses": _answers(operation),
    }
    if operation.body is not None:
        content = {"application/json": {"schema": _ref(operation.body)}}
        described["requestBody"] = {"required": True, "content": content}
    if operation.parameter is not None:
        described["parameters"] = [
            {"name": operation.parameter, "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return described


def _answers(operation: _Operation) -> dict[str, Any]:
    schema = _ref(operation.answer) if operation.answer else {"type": "object"}
    text = {"schema": {"type": "string"}}
    content: dict[str, Any] = {
        media: {"schema": schema} if media == "application/json" else text for media in operation.content
    }
    if operation.body is not None and operation.answer is not CompactedResponse:
        content["text/event-stream"] = text
    answers: dict[str, Any] = {"200": {"description": "The answer", "content": content}}
    for status, description in _ERRORS.items():
        error = _ref(ErrorAnswer)
        if status == "503" and operation.unavailable is not None:
            error = {"anyOf": [_ref(operation.unavailable), error]}
        answers[status] = {"description": description, "content": {"application/json": {"schema": error}}}
    return answers


def _ref(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": _REF.format(name=struct.__name__)}
