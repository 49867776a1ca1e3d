"""docs/http-api.md, written from the OpenAPI document that every front door serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from swarm.api.openapi import document

_HEAD = """\
# The API, field by field

Generated from `/openapi.json` by `scripts/make_docs`; a test keeps it true. What the fields do, with their defaults,
is told in [api.md](api.md). Every path works with and without `/v1`; every field that is not required may be `null`,
which means absent; unknown fields are ignored.
"""
_REF = "#/components/schemas/"


def page() -> str:
    """Return docs/http-api.md."""
    described = document("")
    schemas: dict[str, Any] = described["components"]["schemas"]
    parts = [
        _HEAD,
        *_operations(described["paths"]),
        "## Statuses\n",
        *_statuses(described["paths"]),
        "## Objects\n",
    ]
    for name in sorted(schemas):
        parts += _object(name, schemas[name])
    return "\n".join(parts).rstrip("\n") + "\n"


def _operations(paths: dict[str, Any]) -> Iterator[str]:
    yield "## Requests\n"
    yield "| request | does | body | answer |"
    yield "|---|---|---|---|"
    for path, methods in paths.items():
        for method, operation in methods.items():
            body = (
                operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            )
            content = operation["responses"]["200"]["content"]
            answers = [_type(each["schema"]) for kind, each in content.items() if kind != "text/event-stream"]
            if "text/event-stream" in content:
                answers.append("or a stream of events")
            sent = _type(body) if body else ""
            yield f"| `{method.upper()} {path}` | {operation['summary']} | {sent} | {' '.join(answers)} |"
    yield ""


def _statuses(paths: dict[str, Any]) -> Iterator[str]:
    yield "An error's body is an [ErrorAnswer](#erroranswer).\n"
    yield "| status | when |"
    yield "|---|---|"
    answers = paths["/v1/chat/completions"]["post"]["responses"]
    yield from (f"| {status} | {answer['description']} |" for status, answer in answers.items())
    yield ""


def _object(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    if about := schema.get("description"):
        yield " ".join(about.replace("``", "`").split()) + "\n"
    if "properties" not in schema:
        yield _type(schema) + "\n"
        return
    required = set(schema.get("required", ()))
    yield "| field | type | |"
    yield "|---|---|---|"
    for field, kind in schema["properties"].items():
        yield f"| `{field}` | {_type(kind)} | {'required' if field in required else ''} |"
    yield ""


def _type(schema: dict[str, Any]) -> str:
    """Return a schema in words; ``null`` goes without saying."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF)
        return f"[{name}](#{name.lower().replace('.', '')})"
    if "anyOf" in schema:
        kinds = [_type(each) for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"array of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(kind or "any")
