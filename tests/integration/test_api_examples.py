"""The examples of both specifications, run as they are written there with OpenAI's own library and curl."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import openai
import pytest

from swarm.node.front import GenerationRequest
from tests.support.front_door import MODEL, FakeFrontDoor, Served, Step, serving

POEM = ["Nodes ", "in a ", "ring", "."]
CALL = ['{"name": "get_weather", ', '"arguments": {"city": "Chicago"}}']
TOOLS: Any = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Get weather for a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
Result = TypeVar("Result")


def script(request: GenerationRequest) -> list[Step]:
    prompt = "".join(map(chr, request.prompt))
    if "temperature" in prompt:
        return ["It is 72 degrees."]
    return list(CALL) if "get_weather" in prompt else list(POEM)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(FakeFrontDoor(script=script), keys=("foo", "bar", "baz")) as running:
        yield running


async def with_client(served: Served, use: Callable[[openai.OpenAI], Result]) -> Result:
    """Run what uses the blocking client, as the examples do, beside the door's loop."""

    def run() -> Result:
        with openai.OpenAI(base_url=served.url + "/v1", api_key="foo", max_retries=0) as client:
            return use(client)

    return await asyncio.to_thread(run)


async def test_basic_usage(served: Served) -> None:
    def use(client: openai.OpenAI) -> openai.types.chat.ChatCompletion:
        return client.chat.completions.create(
            model=MODEL,
            messages=[
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "What is distributed computing?"},
            ],
            max_completion_tokens=200,
        )

    response = await with_client(served, use)
    assert response.choices[0].message.content == "Nodes in a ring."
    assert served.front.chat_tokenizer.rendered[0]["messages"] == [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is distributed computing?"},
    ]
    assert served.front.generations[0].request.max_tokens == 200


async def test_responses_usage(served: Served) -> None:
    def use(client: openai.OpenAI) -> openai.types.responses.Response:
        return client.responses.create(
            model=MODEL,
            instructions="You are a helpful assistant.",
            input="What is distributed computing?",
            max_output_tokens=200,
        )

    response = await with_client(served, use)
    assert response.output_text == "Nodes in a ring."
    assert served.front.generations[0].request.max_tokens == 200


async def test_streaming(served: Served) -> None:
    def use(client: openai.OpenAI) -> list[str]:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Write a short poem about networks."}],
            max_completion_tokens=100,
            stream=True,
        )
        return [chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content]

    assert await with_client(served, use) == POEM


async def test_async_usage_and_async_streaming(served: Served) -> None:
    async with openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="foo", max_retries=0) as client:
        response = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello!"}], max_completion_tokens=50
        )
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Count to 10."}],
            max_completion_tokens=100,
            stream=True,
        )
        texts = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices[0].delta.content]
    assert response.choices[0].message.content == "Nodes in a ring."
    assert texts == POEM


async def test_function_calling_and_the_result_sent_back(served: Served) -> None:
    def ask(client: openai.OpenAI) -> openai.types.responses.Response:
        return client.responses.create(model=MODEL, input="What is the weather in Chicago?", tools=TOOLS)

    def send_result(client: openai.OpenAI) -> openai.types.responses.Response:
        return client.responses.create(
            model=MODEL,
            input=[
                {"role": "user", "content": "What is the weather in Chicago?"},
                {
                    "type": "function_call",
                    "call_id": "call_abc",
                    "name": "get_weather",
                    "arguments": '{"city": "Chicago"}',
                },
                {"type": "function_call_output", "call_id": "call_abc", "output": '{"temperature": 72}'},
            ],
            tools=TOOLS,
        )

    called = await with_client(served, ask)
    assert [(item.name, item.arguments) for item in called.output if item.type == "function_call"] == [
        ("get_weather", '{"city":"Chicago"}')
    ]
    assert [item.type for item in called.output] == ["function_call"]
    assert (await with_client(served, send_result)).output_text == "It is 72 degrees."


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "Hello!"}], "max_completion_tokens": 50},
        ),
        (
            "responses",
            {"instructions": "You are a helpful assistant.", "input": "Hello!", "max_output_tokens": 50},
        ),
        (
            "chat/completions",
            {
                "messages": [{"role": "user", "content": "Hello!"}],
                "max_completion_tokens": 50,
                "stream": True,
            },
        ),
    ],
    ids=["chat", "responses", "streaming"],
)
async def test_curl(served: Served, path: str, body: dict[str, Any]) -> None:
    command = ["curl", "-sS", "--fail", f"{served.url}/v1/{path}"]
    command += ["-H", "Content-Type: application/json", "-H", "Authorization: Bearer bar"]
    done = await asyncio.to_thread(
        subprocess.run,
        [*command, "-d", json.dumps({"model": MODEL, **body})],
        capture_output=True,
        timeout=30,
        check=True,
    )
    if body.get("stream"):
        assert done.stdout.endswith(b"data: [DONE]\n\n")
        return
    answer = json.loads(done.stdout)
    text = answer["output_text"] if path == "responses" else answer["choices"][0]["message"]["content"]
    assert text == "Nodes in a ring."
