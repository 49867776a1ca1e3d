"""Messages made ready for a template."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.api.prompt import template_messages, with_one_system_message
from swarm.api.schemas import ChatBody, parse
from swarm.errors import RequestError


def ready(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    import msgspec

    raw = msgspec.json.encode({"model": "m", "messages": messages})
    return template_messages(parse(raw, ChatBody).messages)


def test_developer_is_system_and_leading_system_messages_are_one() -> None:
    assert ready(
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
        {"role": "user", "content": "Hi"},
    ) == [{"role": "system", "content": "Be brief.\n\nBe kind."}, {"role": "user", "content": "Hi"}]


def test_later_system_messages_stay_until_a_template_refuses_them() -> None:
    messages = ready(
        {"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}
    )
    assert [message["role"] for message in messages] == ["user", "system", "user"]
    assert [message["role"] for message in with_one_system_message(messages)] == ["system", "user", "user"]


def test_calls_of_tools_and_their_results_go_back_natively() -> None:
    messages = ready(
        {"role": "user", "content": "?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    )
    assert messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert messages[2] == {"role": "tool", "content": "2", "tool_call_id": "c1"}


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
def test_a_part_that_is_no_text_is_refused_by_name(kind: str) -> None:
    with pytest.raises(RequestError, match=kind) as refused:
        ready({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": kind}]})
    assert refused.value.param == "messages[0].content[1].type"
