"""Chat completions over real HTTP: whole, streamed, failed and abandoned."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from swarm.errors import DeadlineError, NoPathError, OverloadedError, PeerError
from swarm.node.front import GenerationRequest, ServedModel
from swarm.types import LayerSpan, NodeId
from tests.support.front_door import MODEL, STOP_ID, FakeFrontDoor, Served, eventually, serving

HELLO = [{"role": "user", "content": "Hi"}]


def body(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": HELLO, **fields}


async def post(
    served: Served, content: Any, path: str = "/v1/chat/completions", **headers: str
) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.post(served.url + path, json=content, headers=headers, timeout=30)


def events_of(response: httpx.Response) -> list[Any]:
    """The data of every event, JSON decoded but for [DONE]."""
    events = [block for block in response.text.split("\n\n") if block and not block.startswith(":")]
    data = [line[6:] for block in events for line in block.split("\n") if line.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


async def test_an_answer_has_the_shape_of_the_specification() -> None:
    async with serving() as served:
        response = await post(served, body())
    assert response.status_code == 200
    answer = response.json()
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["model"] == MODEL
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello, world!", "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    prompt = len("<user>Hi\n<assistant>")
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (
        prompt,
        4,
        prompt + 4,
    )
    assert response.headers["x-swarm-route"] == "aaaaaaaa=0:4, bbbbbbbb=4:8"
    assert response.headers["x-request-id"].startswith("req_")


async def test_the_defaults_are_those_of_the_specification() -> None:
    async with serving() as served:
        await post(served, body())
    request = served.front.generations[0].request
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 1.0, 0, 0.0)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.top_logprobs) == (0.0, 0.0, None)
    assert request.max_tokens == 1000


async def test_every_sampling_field_reaches_the_node() -> None:
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "logit_bias": {"17": -100, "18": 2.5},
        "seed": 7,
        "min_tokens": 3,
        "ignore_eos": True,
        "stop_token_ids": [9],
        "timeout": 12.5,
    }
    async with serving() as served:
        await post(served, body(**fields))
    request = served.front.generations[0].request
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 40, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1.0, -1.0)
    assert sampling.logit_bias == {17: -100.0, 18: 2.5}
    assert sampling.seed == 7
    assert sampling.banned_until == {STOP_ID: 3, 9: 3}
    assert request.ignore_eos
    assert request.stop_token_ids == {9}
    assert request.deadline_seconds == pytest.approx(12.5, abs=5)  # less what it waited for its turn


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"max_tokens": 3}, 3),
        ({"max_tokens": 3, "max_completion_tokens": 2}, 2),
        ({"max_output_tokens": 1, "max_tokens": 3, "max_completion_tokens": 2}, 1),
        ({"max_tokens": None, "max_completion_tokens": 2}, 2),
        ({"max_tokens": 10**30}, 4096),
    ],
)
async def test_the_later_name_of_the_token_limit_wins(names: dict[str, Any], expected: int) -> None:
    async with serving() as served:
        await post(served, body(**names))
    assert served.front.generations[0].request.max_tokens == expected


async def test_a_spent_budget_is_finish_reason_length() -> None:
    async with serving() as served:
        answer = (await post(served, body(max_tokens=2))).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"] == "Hello,"


async def test_a_stream_is_role_content_finish_done() -> None:
    async with serving() as served:
        response = await post(served, body(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-swarm-route"] == "aaaaaaaa=0:4, bbbbbbbb=4:8"
    *chunks, done = events_of(response)
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"] for chunk in chunks[1:-1]] == [
        {"content": text} for text in ("Hello", ",", " world", "!")
    ]
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": None}
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_last_and_only_when_asked() -> None:
    async with serving() as served:
        response = await post(served, body(stream=True, stream_options={"include_usage": True}))
    *chunks, usage, done = events_of(response)
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4


async def test_several_choices_run_at_once_and_keep_their_own_texts() -> None:
    def script(request: GenerationRequest) -> list[str]:
        return [f"{request.sampling.choice}-{at} " for at in range(20)]

    async with serving(FakeFrontDoor(script=script)) as served:
        whole = (await post(served, body(n=3))).json()
        streamed = events_of(await post(served, body(n=3, stream=True)))
    expected = ["".join(f"{choice}-{at} " for at in range(20)) for choice in range(3)]
    assert [choice["message"]["content"] for choice in whole["choices"]] == expected
    texts = ["", "", ""]
    ended = set()
    for chunk in streamed[:-1]:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
        if choice["finish_reason"]:
            ended.add(choice["index"])
    assert texts == expected
    assert ended == {0, 1, 2}
    assert whole["usage"]["completion_tokens"] == 60
    assert {generation.request.sampling.seed for generation in served.front.generations[:3]} == {
        served.front.generations[0].request.sampling.seed
    }


async def test_a_stop_string_across_tokens_ends_the_answer_and_is_not_shown() -> None:
    front = FakeFrontDoor(script=lambda request: ["one", " EN", "D", " two"], finish="length")
    async with serving(front) as served:
        whole = (await post(served, body(stop=[" END", "never"]))).json()
        streamed = events_of(await post(served, body(stop=" END", stream=True)))
    assert whole["choices"][0]["message"]["content"] == "one"
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in streamed[:-1]) == "one"
    assert all(generation.closed for generation in front.generations)


async def test_logprobs_join_to_the_content() -> None:
    front = FakeFrontDoor(script=lambda request: ["Hel", "lo", "", " \N{GRINNING FACE}", " ST", "OP"])
    async with serving(front) as served:
        whole = (await post(served, body(logprobs=True, top_logprobs=2, stop=["STOP"]))).json()
        streamed = events_of(await post(served, body(logprobs=True, stop=["STOP"], stream=True)))
    choice = whole["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert choice["message"]["content"] == "Hello \N{GRINNING FACE} "
    assert "".join(token["token"] for token in tokens) == choice["message"]["content"]
    assert bytes(b for token in tokens for b in token["bytes"]).decode() == choice["message"]["content"]
    assert tokens[0]["logprob"] == -0.5
    assert [top["token"] for top in tokens[0]["top_logprobs"]] == ["a", "b"]
    chunks = [chunk["choices"][0] for chunk in streamed[:-1]]
    streamed_tokens = [
        token for chunk in chunks for token in (chunk["logprobs"] or {"content": []})["content"]
    ]
    assert [token["token"] for token in streamed_tokens] == [token["token"] for token in tokens]


async def test_reasoning_is_split_off_whole_and_streamed() -> None:
    words = ["<th", "ink>", "\nI ", "see", "\n</thi", "nk>", "\n\n", "Yes", "."]
    async with serving(FakeFrontDoor(script=lambda request: words)) as served:
        whole = (await post(served, body())).json()
        streamed = events_of(await post(served, body(stream=True)))
    message = whole["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("I see", "Yes.")
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 6
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed[:-1]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "I see"
    assert "".join(delta.get("content", "") for delta in deltas) == "Yes."


async def test_a_template_that_opens_the_block_starts_the_splitter_inside() -> None:
    front = FakeFrontDoor(script=lambda request: ["hm", "</think>", "Yes"])
    front.chat_tokenizer.prompt_suffix = "<assistant><think>\n"
    async with serving(front) as served:
        message = (await post(served, body())).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "Yes")


async def test_no_path_is_503_with_retry_after_naming_the_layers() -> None:
    missing = (LayerSpan(4, 8),)
    model = ServedModel(MODEL, "0" * 64, 8, 4096, 0, missing)
    async with serving(FakeFrontDoor(served=(model,))) as served:
        response = await post(served, body(stream=True))
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert "layers 4:8" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("refusal", "status"),
    [(OverloadedError("full"), 429), (NoPathError(MODEL, (LayerSpan(0, 1),)), 503)],
)
async def test_a_refusal_before_the_first_byte_is_a_status(refusal: Any, status: int) -> None:
    async with serving(FakeFrontDoor(refusal=refusal), queue_seconds=0.1) as served:
        for stream in (False, True):
            response = await post(served, body(stream=stream, n=2))
            assert response.status_code == status
            assert "retry-after" in response.headers
            assert response.json()["error"]["code"] == refusal.api_code


async def test_a_failure_after_the_first_byte_is_an_error_event_and_no_done() -> None:
    failure = PeerError(NodeId("c" * 32), "vanished")
    async with serving(FakeFrontDoor(script=lambda request: ["Hel", failure])) as served:
        response = await post(served, body(stream=True))
        client = openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="any", max_retries=0)
        with pytest.raises(openai.APIError, match="vanished"):
            async for _ in await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True):
                pass
        whole = await post(served, body())
    events = events_of(response)
    assert "event: error" in response.text
    assert events[-1]["error"]["code"] == "node_failed"
    assert "[DONE]" not in events
    assert whole.status_code == 503
    assert all(generation.closed for generation in served.front.generations)


async def test_an_answer_that_its_deadline_ended_is_not_computed_again_by_the_clients_own_retries() -> None:
    late = DeadlineError("The request's deadline passed before its answer was complete.")
    async with (
        serving(FakeFrontDoor(script=lambda request: ["Hel", late])) as served,
        openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="any", max_retries=2) as client,
    ):
        with pytest.raises(openai.InternalServerError, match="deadline") as told:
            await client.chat.completions.create(model=MODEL, messages=HELLO, timeout=20)
    assert told.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in told.value.response.headers
    assert len(served.front.generations) == 1


async def test_a_client_that_leaves_a_stream_frees_the_generation() -> None:
    front = FakeFrontDoor(script=lambda request: ["one", asyncio.Event()])
    async with serving(front) as served:
        reader, writer = await asyncio.open_connection(served.address.host, served.address.port)
        content = json.dumps(body(stream=True)).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
        )
        await reader.readuntil(b'"one"')
        assert not front.generations[0].closed
        writer.transport.abort()
        await eventually(lambda: front.generations[0].closed)


async def test_a_client_that_leaves_a_whole_answer_frees_every_choice() -> None:
    front = FakeFrontDoor(script=lambda request: ["one", asyncio.Event()])
    async with serving(front) as served, httpx.AsyncClient() as client:
        task = asyncio.create_task(client.post(served.url + "/v1/chat/completions", json=body(n=2)))
        await eventually(lambda: len(front.generations) == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: all(generation.closed for generation in front.generations))


async def test_silence_on_a_stream_is_filled_with_comments() -> None:
    go_on = asyncio.Event()
    front = FakeFrontDoor(script=lambda request: ["one", go_on, "two"])
    async with serving(front, keepalive_seconds=0.05) as served, httpx.AsyncClient() as client:
        request = client.stream(
            "POST", served.url + "/v1/chat/completions", json=body(stream=True), timeout=30
        )
        async with request as response:
            text = ""
            async for part in response.aiter_text():
                text += part
                if text.count(": keepalive\n\n") >= 2:
                    go_on.set()
    assert text.count(": keepalive\n\n") >= 2
    assert text.endswith("data: [DONE]\n\n")
    chunks = [block for block in text.split("\n\n") if block.startswith("data: {")]
    assert "".join(json.loads(c[6:])["choices"][0]["delta"].get("content", "") for c in chunks) == "onetwo"


async def test_a_client_that_stops_reading_is_cut_and_its_generation_freed() -> None:
    front = FakeFrontDoor(script=lambda request: ["x" * 100_000] * 500)
    async with serving(front, stalled_reader_seconds=0.3) as served:
        reader, writer = await asyncio.open_connection(served.address.host, served.address.port, limit=1024)
        content = json.dumps(body(stream=True)).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
        )
        await reader.readuntil(b"\r\n\r\n")
        await eventually(lambda: bool(front.generations) and front.generations[0].closed)
        assert front.generations[0].finish_reason is None
        # It is told, whenever it looks: its connection was reset, with whatever it had not read before that.
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(_read_all(reader), 20)
        writer.transport.abort()


async def _read_all(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            {"enable_thinking": True},
        ),
    ],
)
async def test_a_reasoning_effort_reaches_the_template(fields: dict[str, Any], told: dict[str, Any]) -> None:
    async with serving() as served, httpx.AsyncClient() as client:
        chat = {"model": MODEL, "messages": HELLO, **fields}
        assert (await client.post(served.url + "/v1/chat/completions", json=chat)).status_code == 200
        effort, kwargs = fields["reasoning_effort"], fields.get("chat_template_kwargs")
        body = {
            "model": MODEL,
            "input": "Hi",
            "reasoning": {"effort": effort},
            "chat_template_kwargs": kwargs,
        }
        assert (await client.post(served.url + "/v1/responses", json=body)).status_code == 200
    for rendered in served.front.chat_tokenizer.rendered:
        assert {name: rendered[name] for name in told} == told
