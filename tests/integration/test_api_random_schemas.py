"""A hundred random JSON schemas on the real model: every answer that ends by itself validates."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import openai
import pytest

from tests.support.swarm_process import MODEL, SwarmProcesses

pytestmark = [pytest.mark.real_model, pytest.mark.processes, pytest.mark.timeout(600)]

SCHEMAS = 100
AT_ONCE = 8


def schema_of(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema whose answers are short."""
    kind = rng.choice(
        ["integer", "boolean", "enum", "const", "string", "null"] + ["object", "array"] * (depth < 2)
    )
    if kind == "integer":
        low = rng.randint(-50, 50)
        return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 20)}
    if kind == "enum":
        return {"enum": rng.sample(["red", "two words", "größer", 1, 2.5, True, None], rng.randint(1, 4))}
    if kind == "const":
        return {"const": rng.choice(['a"b', "", 0, False, None])}
    if kind == "string":
        return {"type": "string", "minLength": 1, "maxLength": rng.randint(1, 6)}
    if kind == "array":
        least = rng.randint(0, 2)
        return {"type": "array", "items": schema_of(rng, depth + 1), "minItems": least, "maxItems": least + 1}
    if kind == "object":
        names = rng.sample(["name", "größe", "a b", "n", "list"], rng.randint(1, 3))
        return {
            "type": "object",
            "properties": {name: schema_of(rng, depth + 1) for name in names},
            "required": names[: rng.randint(0, len(names))],
            "additionalProperties": False,
        }
    return {"type": kind}


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether ``value`` is what ``schema_of``'s schema describes. JSON tells booleans from numbers."""
    if "enum" in schema or "const" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        return any(type(value) is type(each) and value == each for each in allowed)
    match schema["type"]:
        case "integer":
            return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
        case "string":
            return isinstance(value, str) and schema["minLength"] <= len(value) <= schema["maxLength"]
        case "array":
            return (
                isinstance(value, list)
                and schema["minItems"] <= len(value) <= schema["maxItems"]
                and all(is_valid(each, schema["items"]) for each in value)
            )
        case "object":
            return (
                isinstance(value, dict)
                and set(schema["required"]) <= value.keys() <= schema["properties"].keys()
                and all(is_valid(each, schema["properties"][name]) for name, each in value.items())
            )
        case "boolean":
            return isinstance(value, bool)
        case _:
            return value is None


async def test_answers_to_random_schemas_validate(three_nodes: SwarmProcesses) -> None:
    rng = random.Random(5)
    schemas = [schema_of(rng) for _ in range(SCHEMAS)]
    room = asyncio.Semaphore(AT_ONCE)
    async with openai.AsyncOpenAI(
        base_url=three_nodes.nodes[0].url + "/v1", api_key="k", max_retries=4, timeout=300
    ) as client:

        async def ask(seed: int, schema: dict[str, Any]) -> tuple[str, str]:
            form: Any = {
                "type": "json_schema",
                "json_schema": {"name": "s", "strict": True, "schema": schema},
            }
            async with room:
                answer = await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": "Go."}], response_format=form, seed=seed,
                    max_tokens=120,
                )  # fmt: skip
            return answer.choices[0].finish_reason, answer.choices[0].message.content or ""

        answers = await asyncio.gather(*(ask(at, schema) for at, schema in enumerate(schemas)))
    for schema, (reason, text) in zip(schemas, answers, strict=True):
        assert reason == "stop", (schema, text)
        assert is_valid(json.loads(text), schema), (schema, text)
