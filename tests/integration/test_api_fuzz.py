"""No body, whatever its fields hold, is answered with a 500 or in another shape than the documented ones."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.api.responses.schemas import InputItem, ResponsesBody
from swarm.api.schemas import ChatBody, CompletionBody, ContentPart, Message
from tests.support.front_door import MODEL, serving

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KINDS = st.sampled_from(
    [
        "function",
        "json_schema",
        "json_object",
        "grammar",
        "text",
        "message",
        "function_call",
        "input_text",
        "reasoning",
    ]
)


def struct(kind: type[msgspec.Struct], values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(kind.__struct_fields__), values, max_size=5)


PART = struct(ContentPart, KINDS | st.text(max_size=5))
ITEM = struct(
    InputItem, KINDS | st.sampled_from(["user", "assistant", "tool", "{}"]) | st.lists(PART, max_size=2)
)
MESSAGE = struct(
    Message, st.sampled_from(["user", "assistant", "system"]) | st.lists(PART, max_size=2) | JSON
)
TOOL = st.fixed_dictionaries(
    {},
    optional={
        "type": KINDS,
        "name": st.sampled_from(["f", "g", "a b"]),
        "function": st.dictionaries(st.sampled_from(["name", "parameters"]), st.just("f") | JSON),
        "parameters": JSON,
    },
)
FORM = st.fixed_dictionaries(
    {"type": KINDS},
    optional={
        "schema": JSON,
        "json_schema": st.fixed_dictionaries({"schema": JSON}),
        "syntax": st.sampled_from(["lark", "regex"]),
        "definition": st.text(max_size=8),
    },
)
VALUE = JSON | st.lists(MESSAGE, max_size=3) | st.lists(ITEM, max_size=3) | st.lists(TOOL, max_size=2) | FORM


def bodies(kind: type[msgspec.Struct], **whole: Any) -> st.SearchStrategy[dict[str, Any]]:
    return struct(kind, VALUE).map(lambda fields: {"model": MODEL, **whole, **fields})


REQUESTS = st.one_of(
    st.tuples(st.just("chat/completions"), bodies(ChatBody, messages=[{"role": "user", "content": "Hi"}])),
    st.tuples(st.just("chat/completions"), struct(ChatBody, VALUE)),
    st.tuples(st.just("responses"), bodies(ResponsesBody, input="Hi")),
    st.tuples(st.just("responses"), bodies(ResponsesBody)),
    st.tuples(st.just("completions"), bodies(CompletionBody, prompt="Hi")),
)


@given(st.lists(REQUESTS, min_size=1, max_size=20))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_body_is_answered_with_a_fault(requests: list[tuple[str, dict[str, Any]]]) -> None:
    async def ask() -> None:
        async with serving() as served, httpx.AsyncClient() as client:
            for path, body in requests:
                response = await client.post(f"{served.url}/v1/{path}", json=body, timeout=30)
                assert response.status_code in (200, 400, 404), (path, body, response.text)
                if response.status_code != 200:
                    assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    asyncio.run(ask())
