"""Input items of the Responses API turned into template messages, and answers back into them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.api.prompt import TemplateMessage, joined_text, template_messages, template_tool_call
from swarm.api.responses.compaction import summary_message
from swarm.api.responses.objects import FunctionCallItem, Item, MessageItem, ReasoningItem
from swarm.api.responses.schemas import InputItem
from swarm.api.schemas import Message
from swarm.api.tools.definitions import joined_name
from swarm.errors import RequestError


def input_messages(given: str | Sequence[InputItem] | None) -> list[TemplateMessage]:
    """Return the messages of ``input``. Raises RequestError that names the item which can't be read."""
    if given is None:
        raise RequestError(
            "Missing required parameter: 'input'.", param="input", code="missing_required_parameter"
        )
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not given:
        raise RequestError(
            "Invalid 'input': empty array. Expected an array with minimum length 1.",
            param="input",
            code="empty_array",
        )
    messages: list[TemplateMessage] = []
    for at, item in enumerate(given):
        _add(messages, item, f"input[{at}]")
    return _without_loose_reasoning(messages)


def output_messages(items: Sequence[Item]) -> list[TemplateMessage]:
    """Return the messages that carry an answer into the next turn."""
    messages: list[TemplateMessage] = []
    for item in items:
        if isinstance(item, FunctionCallItem):
            _assistant(messages).setdefault("tool_calls", []).append(
                template_tool_call(
                    item.call_id, joined_name(item.namespace or None, item.name), item.arguments, "output"
                )
            )
        elif isinstance(item, MessageItem):
            _assistant(messages)["content"] += item.text
        elif isinstance(item, ReasoningItem):
            _assistant(messages)["reasoning_content"] = "".join(part.text for part in item.summary)
    return _without_loose_reasoning(messages)


def with_instructions(instructions: str | None, messages: Sequence[TemplateMessage]) -> list[TemplateMessage]:
    """Put ``instructions`` before all; leading system messages become one."""
    ready = list(messages)
    texts = [instructions] if instructions else []
    while ready and ready[0]["role"] == "system":
        texts.append(ready.pop(0)["content"])
    return [{"role": "system", "content": "\n\n".join(texts)}, *ready] if texts else ready


def _add(messages: list[TemplateMessage], item: InputItem, param: str) -> None:
    match item.type or "message":
        case "message":
            if item.role is None:
                raise RequestError(
                    f"Missing required parameter: '{param}.role'.",
                    param=f"{param}.role",
                    code="missing_required_parameter",
                )
            _add_message(messages, item, param)
        case "function_call":
            name, call_id = _given(item.name, f"{param}.name"), _given(item.call_id, f"{param}.call_id")
            name = joined_name(item.namespace, name)
            call = template_tool_call(call_id, name, item.arguments, f"{param}.arguments")
            _assistant(messages).setdefault("tool_calls", []).append(call)
        case "function_call_output":
            call_id = _given(item.call_id, f"{param}.call_id")
            if item.output is None:
                _given(None, f"{param}.output")
            content = joined_text(item.output, f"{param}.output")
            messages.append({"role": "tool", "content": content, "tool_call_id": call_id})
        case "compaction":
            messages.append(summary_message(item.encrypted_content, param))
        case "reasoning":
            parts = item.content if isinstance(item.content, list) and item.content else item.summary
            text = "".join(part.text or "" for part in parts or ())
            messages.append({"role": "assistant", "content": "", "reasoning_content": text})
        case other:
            raise RequestError(
                f"Invalid value: {other[:50]!r}. Supported values are: 'message', 'function_call', "
                "'function_call_output', 'reasoning', and 'compaction'.",
                param=f"{param}.type",
                code="invalid_value",
            )


def _add_message(messages: list[TemplateMessage], item: InputItem, param: str) -> None:
    # The list of one is only for the shared checks; its place in their messages is corrected here.
    try:
        (converted,) = template_messages([Message(role=item.role or "", content=item.content)], param=param)
    except RequestError as exc:
        where = (exc.param or "").replace(f"{param}[0]", param)
        raise RequestError(str(exc).replace(f"{param}[0]", param), param=where, code=exc.api_code) from exc
    if converted["role"] == "assistant" and messages and _is_open(messages[-1]):
        messages[-1]["content"] += converted["content"]
    else:
        messages.append(converted)


def _assistant(messages: list[TemplateMessage]) -> TemplateMessage:
    """Return the assistant message that the next item belongs to: reasoning, text and calls of a turn are one."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _is_open(message: TemplateMessage) -> bool:
    return message["role"] == "assistant" and not message["content"] and "tool_calls" not in message


def _without_loose_reasoning(messages: Sequence[TemplateMessage]) -> list[TemplateMessage]:
    return [
        message
        for message in messages
        if message["role"] != "assistant" or message["content"] or message.get("tool_calls")
    ]


def _given(value: str | None, param: str) -> str:
    if value is None:
        raise RequestError(
            f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
        )
    return value
