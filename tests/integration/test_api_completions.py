"""Completions over real HTTP: prompts of every kind, echo, log-probabilities."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.support.front_door import MODEL, FakeFrontDoor, Served, serving


async def post(served: Served, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.post(served.url + "/v1/completions", json={"model": MODEL, **fields}, timeout=30)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [(97, 98)]),
        (["ab", "c"], [(97, 98), (99,)]),
        ([97, 98], [(97, 98)]),
        ([[97], [98, 99]], [(97,), (98, 99)]),
    ],
)
async def test_prompts_come_as_text_or_token_ids_one_or_many(
    prompt: Any, expected: list[tuple[int, ...]]
) -> None:
    async with serving() as served:
        answer = (await post(served, prompt=prompt)).json()
    assert [generation.request.prompt for generation in served.front.generations] == expected
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
    assert {choice["text"] for choice in answer["choices"]} == {"Hello, world!"}
    assert answer["object"] == "text_completion"
    assert answer["usage"]["prompt_tokens"] == sum(map(len, expected))
    assert served.front.generations[0].request.max_tokens == 16


async def test_tags_of_reasoning_are_text_like_any_other() -> None:
    async with serving(FakeFrontDoor(script=lambda request: ["<think>a</think>", "b"])) as served:
        answer = (await post(served, prompt="x")).json()
    assert answer["choices"][0]["text"] == "<think>a</think>b"


async def test_echo_puts_the_prompt_first_and_no_tokens_generates_nothing() -> None:
    async with serving() as served:
        echoed = (await post(served, prompt=["ab", "c"], echo=True, n=2)).json()
        nothing = (await post(served, prompt="ab", echo=True, max_tokens=0)).json()
        one = (await post(served, prompt="ab", max_tokens=1)).json()
    assert [choice["text"] for choice in echoed["choices"]] == ["abHello, world!"] * 2 + [
        "cHello, world!"
    ] * 2
    assert [(c["text"], c["finish_reason"]) for c in nothing["choices"]] == [("ab", "length")]
    assert [(c["text"], c["finish_reason"]) for c in one["choices"]] == [("Hello", "length")]
    assert len(served.front.generations) == 4 + 0 + 1


async def test_logprobs_have_the_legacy_shape_with_offsets() -> None:
    async with (
        serving() as served,
        openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="k") as client,
    ):
        answer = await client.completions.create(model=MODEL, prompt="ab", logprobs=2)
        stream = await client.completions.create(model=MODEL, prompt="ab", logprobs=2, stream=True)
        chunks = [chunk async for chunk in stream]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["Hello", ",", " world", "!"]
    assert logprobs.text_offset == [0, 5, 6, 12]
    assert logprobs.token_logprobs == [-0.5] * 4
    assert logprobs.top_logprobs == [{"a": 0.0, "b": -1.0}] * 4
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello, world!"
    offsets = [
        offset for c in chunks if c.choices[0].logprobs for offset in c.choices[0].logprobs.text_offset or ()
    ]
    assert offsets == logprobs.text_offset
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_echo_with_logprobs_tells_those_of_the_prompt_too() -> None:
    async with serving() as served:
        answer = (await post(served, prompt="abc", echo=True, logprobs=1, max_tokens=2)).json()
    (choice,) = answer["choices"]
    assert choice["text"] == "abcHello,"
    assert choice["logprobs"] == {
        "tokens": ["a", "b", "c", "Hello", ","],
        "token_logprobs": [None, -1.0, -2.0, -0.5, -0.5],
        "top_logprobs": [None, {"a": 0.0}, {"a": 0.0}, {"a": 0.0}, {"a": 0.0}],
        "text_offset": [0, 1, 2, 3, 8],
    }
    assert answer["usage"]["completion_tokens"] == 2


async def test_echo_with_logprobs_and_no_tokens_is_the_prompt_alone() -> None:
    async with serving() as served:
        answer = (await post(served, prompt=["ab", "cde"], echo=True, logprobs=0, max_tokens=0)).json()
    assert [(c["text"], c["finish_reason"]) for c in answer["choices"]] == [
        ("ab", "length"),
        ("cde", "length"),
    ]
    assert [c["logprobs"]["token_logprobs"] for c in answer["choices"]] == [[None, -1.0], [None, -1.0, -2.0]]
    assert answer["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("max_tokens", [0, 2])
async def test_a_streamed_echo_says_what_a_whole_one_says(max_tokens: int) -> None:
    fields: dict[str, Any] = {"prompt": "abc", "echo": True, "logprobs": 1, "max_tokens": max_tokens}
    async with serving() as served, openai.AsyncOpenAI(base_url=served.url + "/v1", api_key="k") as client:
        whole = (await client.completions.create(model=MODEL, **fields)).choices[0]
        stream = await client.completions.create(model=MODEL, **fields, stream=True)
        choices = [chunk.choices[0] async for chunk in stream]
    assert whole.logprobs is not None
    for name, expected in whole.logprobs.model_dump().items():
        streamed = [value for c in choices if c.logprobs for value in getattr(c.logprobs, name) or ()]
        assert streamed == expected
    assert "".join(choice.text for choice in choices) == whole.text
    assert [choice.finish_reason for choice in choices][-1] == "length"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [[1], []]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**12]}, "prompt"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": ["a"] * 100, "n": 2}, "prompt"),
        ({"prompt": "x" * 5000}, "prompt"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens"),
    ],
)
async def test_what_can_not_be_answered_is_400_and_named(fields: dict[str, Any], param: str) -> None:
    async with serving() as served:
        response = await post(served, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
