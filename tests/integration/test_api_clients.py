"""Clients that must work unchanged: openai-python, curl, and a plain socket."""

from __future__ import annotations

import asyncio
import json
import subprocess

import openai
import pytest
from pydantic import BaseModel

from tests.support.front_door import MODEL, FakeFrontDoor, serving

MESSAGES = [{"role": "user", "content": "Hi"}]


async def test_openai_python_sync_and_async_whole_and_streamed() -> None:
    def with_sync_client(url: str) -> tuple[str | None, str, list[str]]:
        with openai.OpenAI(base_url=url, api_key="k", _strict_response_validation=True) as client:
            whole = client.chat.completions.create(model=MODEL, messages=MESSAGES)
            stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return whole.choices[0].message.content, text, [model.id for model in client.models.list()]

    async with serving(keys=("k",)) as served:
        url = served.url + "/v1"
        assert await asyncio.to_thread(with_sync_client, url) == ("Hello, world!", "Hello, world!", [MODEL])
        async with openai.AsyncOpenAI(base_url=url, api_key="k", _strict_response_validation=True) as client:
            whole = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
            stream = await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            assert (await client.models.retrieve(MODEL)).id == MODEL
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 4
    assert chunks[-1].usage == whole.usage


async def test_the_stream_helper_of_openai_python_rebuilds_the_answer() -> None:
    async with (
        serving() as served,
        openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="k") as client,
        client.chat.completions.stream(model=MODEL, messages=MESSAGES, logprobs=True) as stream,
    ):
        final = await stream.get_final_completion()
    choice = final.choices[0]
    assert choice.message.content == "Hello, world!"
    assert choice.logprobs is not None
    assert [token.token for token in choice.logprobs.content or ()] == ["Hello", ",", " world", "!"]


async def test_errors_are_the_exceptions_openai_python_knows() -> None:
    async with serving(keys=("k",)) as served:
        url = served.url + "/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
            with pytest.raises(openai.NotFoundError) as unknown:
                await client.chat.completions.create(model="no/such", messages=MESSAGES)
            with pytest.raises(openai.BadRequestError) as bad:
                await client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=9)
    assert unknown.value.code == "model_not_found"
    assert bad.value.param == "temperature"


async def test_curl_streams_event_by_event() -> None:
    async with serving() as served:
        body = json.dumps({"model": MODEL, "messages": MESSAGES, "stream": True})
        command = ["curl", "-sN", f"{served.url}/v1/chat/completions", "-H", "Content-Type: application/json"]
        done = await asyncio.to_thread(
            subprocess.run, [*command, "-d", body], capture_output=True, timeout=30, check=True
        )
    lines = done.stdout.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: ") for line in lines[:-1])


async def test_each_event_leaves_in_one_chunk() -> None:
    async with serving(FakeFrontDoor(script=lambda request: [f"{at} " for at in range(50)])) as served:
        reader, writer = await asyncio.open_connection(served.address.host, served.address.port)
        body = json.dumps({"model": MODEL, "messages": MESSAGES, "stream": True}).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        await reader.readuntil(b"\r\n\r\n")
        chunks = []
        while size := int(await reader.readline(), 16):
            chunks.append((await reader.readexactly(size + 2))[:-2])
        writer.close()
    assert len(chunks) == 50 + 3
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in chunks)
    assert all(chunk.count(b"\n\n") == 1 for chunk in chunks)


async def test_two_hundred_streams_at_once_lose_and_reorder_nothing() -> None:
    words = [f"{at} " for at in range(25)]
    async with serving(FakeFrontDoor(script=lambda request: words)) as served:
        limits = openai.DefaultAsyncHttpxClient(timeout=60)
        async with openai.AsyncOpenAI(
            base_url=served.url + "/v1", api_key="k", http_client=limits, max_retries=0
        ) as client:

            async def one() -> str:
                stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            texts = await asyncio.gather(*(one() for _ in range(200)))
    assert set(texts) == {"".join(words)}


class City(BaseModel):
    name: str
    inhabitants: int


async def test_openai_python_parses_structured_output() -> None:
    front = FakeFrontDoor(script=lambda request: ['{"name": "Paris", ', '"inhabitants": 2}'])
    async with (
        serving(front) as served,
        openai.AsyncOpenAI(
            base_url=served.url + "/v1", api_key="k", max_retries=0, _strict_response_validation=True
        ) as client,
    ):
        chat = await client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=City)
        response = await client.responses.parse(model=MODEL, input="Hi", text_format=City)
    assert chat.choices[0].message.parsed == response.output_parsed == City(name="Paris", inhabitants=2)
    assert all(generation.request.grammar is not None for generation in front.generations)
