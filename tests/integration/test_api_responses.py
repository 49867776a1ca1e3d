"""The Responses API over real HTTP: objects, events, calls, reasoning, stored conversations."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from swarm.errors import PeerError
from swarm.types import NodeId
from tests.support.front_door import MODEL, FakeFrontDoor, Served, serving

TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Get weather for a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
CALL = ["Sure. ", '{"name": "get_weather", "arg', 'uments": {"city": "Chicago"}}', " Done."]
THINKING = ["<th", "ink>I ", "see.</thi", "nk>\n\n", "Yes", "."]


def client_of(served: Served, key: str = "k") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=served.url + "/v1", api_key=key, max_retries=0, _strict_response_validation=True
    )


async def post(served: Served, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        body = {"model": MODEL, "input": "Hi", **fields}
        return await client.post(served.url + "/v1/responses", json=body, timeout=30)


def transcript(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """Every event's name and data, after checking names, numbers and the end of the stream."""
    blocks = response.text.strip().split("\n\n")
    events = []
    for block in blocks:
        if block == "data: [DONE]":
            continue
        name, data = block.split("\n")
        assert name.startswith("event: ")
        events.append((name[7:], json.loads(data[6:])))
    assert [data["type"] for _, data in events] == [name for name, _ in events]
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    return events


async def test_a_response_has_every_field() -> None:
    async with serving() as served:
        answer = (
            await post(served, instructions="Be brief.", max_output_tokens=50, metadata={"a": "b"})
        ).json()
    assert answer["object"] == "response"
    assert answer["status"] == "completed"
    assert answer["output_text"] == "Hello, world!"
    assert [item["type"] for item in answer["output"]] == ["message"]
    assert answer["output"][0]["content"] == [
        {"type": "output_text", "text": "Hello, world!", "annotations": [], "logprobs": []}
    ]
    assert answer["usage"]["output_tokens"] == 4
    assert answer["usage"]["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}
    expected = {
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": "Be brief.",
        "max_output_tokens": 50,
        "max_tool_calls": None,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
    }
    assert {name: answer[name] for name in expected} == expected
    assert served.front.chat_tokenizer.rendered[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    assert served.front.generations[0].request.max_tokens == 50


async def test_the_events_of_a_text_answer_come_in_order() -> None:
    async with serving() as served:
        response = await post(served, stream=True)
    events = transcript(response)
    assert [name for name, _ in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 4,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert response.text.endswith("data: [DONE]\n\n")
    data = dict(events)
    assert data["response.created"]["response"]["status"] == "in_progress"
    assert data["response.created"]["response"]["output"] == []
    item = data["response.output_item.done"]["item"]
    assert data["response.output_text.done"]["text"] == "Hello, world!"
    assert data["response.completed"]["response"]["output"] == [item]
    assert {d["item_id"] for name, d in events if "item_id" in d} == {item["id"]}


async def test_reasoning_is_an_item_of_its_own_and_streams() -> None:
    async with serving(FakeFrontDoor(script=lambda request: THINKING)) as served:
        whole = (await post(served)).json()
        events = transcript(await post(served, stream=True))
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message"]
    assert whole["output"][0]["summary"] == [{"type": "summary_text", "text": "I see."}]
    assert whole["output_text"] == "Yes."
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] == 4
    names = [name for name, _ in events]
    assert names[2:4] == ["response.output_item.added", "response.reasoning_summary_part.added"]
    first_answer = names.index("response.output_text.delta")
    assert names[first_answer - 5 : first_answer] == [
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
    ]
    deltas = [data for name, data in events if name == "response.reasoning_summary_text.delta"]
    assert "".join(data["delta"] for data in deltas) == "I see."
    assert {data["output_index"] for data in deltas} == {0}
    assert {data["output_index"] for name, data in events if name.startswith("response.output_text")} == {1}


async def test_a_call_takes_the_place_of_the_message_and_there_is_one() -> None:
    front = FakeFrontDoor(script=lambda request: [*CALL, *CALL])
    async with serving(front) as served, client_of(served) as client:
        response = await client.responses.create(model=MODEL, input="Weather?", tools=TOOLS)
    assert [item.type for item in response.output] == ["function_call"]
    call = response.output[0]
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Chicago"})
    assert call.call_id.startswith("call_")


async def test_the_events_of_a_call_are_those_of_the_specification() -> None:
    async with serving(FakeFrontDoor(script=lambda request: CALL[1:])) as served:
        events = transcript(await post(served, stream=True, tools=TOOLS))
    assert [name for name, _ in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert json.loads(events[3][1]["delta"]) == {"city": "Chicago"}
    assert events[2][1]["item"]["arguments"] == ""
    assert events[-1][1]["response"]["output"] == [events[5][1]["item"]]


async def test_a_result_goes_back_with_its_call() -> None:
    items = [
        {"role": "user", "content": "Weather in Chicago?"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Look it up."}]},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "Chicago"}'},
        {"type": "function_call_output", "call_id": "c1", "output": '{"temperature": 72}'},
    ]
    front = FakeFrontDoor()
    front.chat_tokenizer.takes_tools = True
    async with serving(front) as served:
        response = await post(served, input=items, tools=TOOLS)
    assert response.status_code == 200
    user, assistant, result = front.chat_tokenizer.rendered[0]["messages"]
    assert user == {"role": "user", "content": "Weather in Chicago?"}
    assert assistant["reasoning_content"] == "Look it up."
    assert assistant["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": {"city": "Chicago"}}
    assert result == {"role": "tool", "content": '{"temperature": 72}', "tool_call_id": "c1"}


async def test_a_spent_budget_is_an_incomplete_response() -> None:
    async with serving() as served:
        whole = (await post(served, max_output_tokens=2)).json()
        events = transcript(await post(served, max_output_tokens=2, stream=True))
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert whole["output"][0]["status"] == "incomplete"
    assert events[-1][0] == "response.incomplete"


async def test_an_empty_answer_is_still_a_message() -> None:
    async with serving(FakeFrontDoor(script=lambda request: [])) as served:
        whole = (await post(served)).json()
    assert [(item["type"], item["content"][0]["text"]) for item in whole["output"]] == [("message", "")]


async def test_a_failure_while_streaming_is_response_failed_and_no_done() -> None:
    failure = PeerError(NodeId("c" * 32), "vanished")
    async with serving(FakeFrontDoor(script=lambda request: ["Hel", failure])) as served:
        response = await post(served, stream=True)
        whole = await post(served)
    name, data = transcript(response)[-1]
    assert name == "response.failed"
    assert data["response"]["status"] == "failed"
    assert "vanished" in data["response"]["error"]["message"]
    assert "[DONE]" not in response.text
    assert whole.status_code == 503


async def test_a_conversation_goes_on_from_a_stored_response() -> None:
    async with serving(FakeFrontDoor(script=lambda request: THINKING)) as served, client_of(served) as client:
        first = await client.responses.create(model=MODEL, input="One?", instructions="Be brief.")
        second = await client.responses.create(model=MODEL, input="Two?", previous_response_id=first.id)
        fetched = await client.responses.retrieve(first.id)
        await client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.id)
    assert second.previous_response_id == first.id
    assert fetched.output_text == "Yes."
    last = served.front.chat_tokenizer.rendered[-1]["messages"]
    assert [(message["role"], message["content"]) for message in last] == [
        ("user", "One?"),
        ("assistant", "Yes."),
        ("user", "Two?"),
    ]


async def test_what_was_not_stored_or_is_anothers_is_not_found() -> None:
    async with (
        serving(keys=("a", "b")) as served,
        client_of(served, "a") as anna,
        client_of(served, "b") as ben,
    ):
        kept = await anna.responses.create(model=MODEL, input="One?")
        lost = await anna.responses.create(model=MODEL, input="One?", store=False)
        for client, response_id in ((ben, kept.id), (anna, lost.id), (anna, "resp_x")):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.responses.create(model=MODEL, input="?", previous_response_id=response_id)
            assert refused.value.code == "previous_response_not_found"
        with pytest.raises(openai.NotFoundError):
            await ben.responses.retrieve(kept.id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        (
            {"input": [{"type": "function_call", "name": "f", "call_id": "c", "arguments": "{"}]},
            "input[0].arguments",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x" * 5000}, "input"),
    ],
)
async def test_what_can_not_be_answered_is_400_and_named(fields: dict[str, Any], param: str) -> None:
    async with serving() as served:
        response = await post(served, **fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_the_stream_helper_of_openai_python_rebuilds_the_response() -> None:
    async with (
        serving(FakeFrontDoor(script=lambda request: THINKING)) as served,
        client_of(served) as client,
        client.responses.stream(model=MODEL, input="Hi") as stream,
    ):
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(deltas) == final.output_text == "Yes."


async def test_logprobs_come_with_the_text_when_included() -> None:
    async with serving() as served:
        whole = (await post(served, include=["message.output_text.logprobs"], top_logprobs=1)).json()
        events = transcript(await post(served, top_logprobs=1, stream=True))
    tokens = whole["output"][0]["content"][0]["logprobs"]
    assert "".join(token["token"] for token in tokens) == "Hello, world!"
    assert [len(token["top_logprobs"]) for token in tokens] == [1] * 4
    deltas = [data for name, data in events if name == "response.output_text.delta"]
    assert [len(data["logprobs"]) for data in deltas] == [1] * 4


async def test_buffered_tools_stream_nothing_but_the_call_at_the_end() -> None:
    front = FakeFrontDoor(script=lambda request: CALL)
    async with serving(front, buffer_tools=True) as served:
        events = transcript(await post(served, stream=True, tools=TOOLS))
    async with serving(front) as served:
        live = transcript(await post(served, stream=True, tools=TOOLS))
    assert "response.output_text.delta" not in [name for name, _ in events]
    assert [item["type"] for item in events[-1][1]["response"]["output"]] == ["function_call"]
    assert [item["type"] for item in live[-1][1]["response"]["output"]] == ["message", "function_call"]


async def test_several_calls_come_where_the_settings_and_the_request_allow_them() -> None:
    front = FakeFrontDoor(script=lambda request: [*CALL, *CALL])
    async with serving(front, parallel_tool_calls=True) as served:
        two = (await post(served, tools=TOOLS)).json()
        one = (await post(served, tools=TOOLS, parallel_tool_calls=False)).json()
    assert [item["type"] for item in two["output"]] == ["function_call"] * 2
    assert [item["type"] for item in one["output"]] == ["function_call"]


async def test_the_settings_may_name_the_format_of_calls() -> None:
    said = "<tool_call><function=get_weather><parameter=city>Rome</parameter></function></tool_call>"
    front = FakeFrontDoor(script=lambda request: [said])
    types = []
    for parser in ("auto", "qwen3_coder"):
        async with serving(front, tool_parser=parser) as served:
            types += [item["type"] for item in (await post(served, tools=TOOLS)).json()["output"]]
    assert types == ["message", "function_call"]


async def test_a_call_into_a_namespace_names_it_and_goes_back() -> None:
    call = '{"name": "files__read", "arguments": {"path": "a"}}'
    tools = [{"type": "namespace", "name": "files", "tools": [{"type": "function", "name": "read"}]}]
    async with serving(FakeFrontDoor(script=lambda request: [call])) as served, httpx.AsyncClient() as client:
        url = served.url + "/v1/responses"
        body = {"model": MODEL, "input": "Read a", "tools": tools}
        answer = (await client.post(url, json=body)).json()
        (item,) = answer["output"]
        result = {"type": "function_call_output", "call_id": item["call_id"], "output": "text of a"}
        again = {**body, "input": [{"role": "user", "content": "Read a"}, item, result]}
        assert (await client.post(url, json=again)).status_code == 200
    assert (item["namespace"], item["name"]) == ("files", "read")
    assert answer["tools"] == tools
    assert "files__read" in str(served.front.chat_tokenizer.rendered[1]["messages"])


async def test_hosted_tools_are_left_out_where_the_settings_say_so() -> None:
    body = {"model": MODEL, "input": "Hi", "tools": [{"type": "web_search"}]}
    async with serving(unsupported_tools="ignore") as served, httpx.AsyncClient() as client:
        answer = (await client.post(served.url + "/v1/responses", json=body)).json()
    assert answer["output_text"] == "Hello, world!"


async def test_a_compacted_conversation_is_a_summary_that_later_requests_take() -> None:
    front = FakeFrontDoor(script=lambda request: ["They greeted."])
    async with serving(front) as served, httpx.AsyncClient() as client:
        url = served.url + "/v1/responses"
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        compacted = (await client.post(url + "/compact", json={"model": MODEL, "input": turns})).json()
        user, compaction = compacted["output"]
        following = [*compacted["output"], {"role": "user", "content": "And now?"}]
        response = await client.post(url, json={"model": MODEL, "input": following})
        wrong = [{"type": "compaction", "encrypted_content": "!"}]
        refused = await client.post(url, json={"model": MODEL, "input": wrong})
    assert compacted["object"] == "response.compaction"
    assert compacted["usage"]["output_tokens"] == 1
    assert (user["role"], user["content"]) == ("user", [{"type": "input_text", "text": "Hi"}])
    assert compaction["type"] == "compaction"
    assert response.status_code == 200
    first, second = (rendered["messages"] for rendered in front.chat_tokenizer.rendered)
    assert [message["content"] for message in first[:2]] == ["Hi", "Hello"]
    assert first[2]["content"].startswith("Summarise")
    assert "They greeted." in second[1]["content"]
    assert refused.json()["error"]["param"] == "input[0].encrypted_content"
