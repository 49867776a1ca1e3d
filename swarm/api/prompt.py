"""Chat messages made ready for a model's template. Knows nothing of sampling, tokens or HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from swarm.api.schemas import ContentPart, Message, ToolCall
from swarm.errors import RequestError

ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT_PARTS = ("text", "input_text", "output_text")
TemplateMessage = dict[str, Any]


def template_messages(messages: Sequence[Message], *, param: str = "messages") -> list[TemplateMessage]:
    """Return the messages as a template reads them; developer is system, leading system messages are one.

    Raises RequestError for an empty list, an unknown role, or a part that is not text.
    """
    if not messages:
        raise RequestError(
            f"Invalid '{param}': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead.",
            param=param,
            code="empty_array",
        )
    ready: list[TemplateMessage] = []
    for at, message in enumerate(messages):
        converted = _converted(message, f"{param}[{at}]")
        if converted["role"] == "system" and len(ready) == 1 and ready[0]["role"] == "system":
            ready[0]["content"] += "\n\n" + converted["content"]
        else:
            ready.append(converted)
    return ready


def with_one_system_message(messages: Sequence[TemplateMessage]) -> list[TemplateMessage]:
    """Return the messages with all system texts in the first one, for templates that want no other."""
    texts = [message["content"] for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(texts)}, *others] if texts else others


def joined_text(content: str | Sequence[ContentPart] | None, param: str) -> str:
    """Return the text of a message's content. Raises RequestError that names a part which is not text."""
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for at, part in enumerate(content):
        if part.type == "refusal":
            texts.append(part.refusal or "")
        elif part.type not in _TEXT_PARTS:
            raise RequestError(
                f"Invalid value: {part.type[:50]!r}. This server's models read text only; "
                f"supported values are: 'text'.",
                param=f"{param}[{at}].type",
                code="invalid_value",
            )
        elif part.text is None:
            raise RequestError(
                f"Missing required parameter: '{param}[{at}].text'.",
                param=f"{param}[{at}].text",
                code="missing_required_parameter",
            )
        else:
            texts.append(part.text)
    return "".join(texts)


def template_tool_call(call_id: str | None, name: str, arguments: str | None, param: str) -> dict[str, Any]:
    """Return a call as templates read it: they write arguments as an object, clients send a JSON string."""
    try:
        document = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError) as exc:
        raise RequestError(
            f"Invalid '{param}': not a JSON document: {exc}.", param=param, code="invalid_value"
        ) from exc
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": document}}


def _converted(message: Message, param: str) -> TemplateMessage:
    if message.role not in ROLES:
        raise RequestError(
            f"Invalid value: {message.role[:50]!r}. Supported values are: {', '.join(map(repr, ROLES))}.",
            param=f"{param}.role",
            code="invalid_value",
        )
    if message.content is None and not (message.role == "assistant" and message.tool_calls):
        raise RequestError(
            f"Missing required parameter: '{param}.content'.",
            param=f"{param}.content",
            code="missing_required_parameter",
        )
    role = "system" if message.role == "developer" else message.role
    converted: TemplateMessage = {"role": role, "content": joined_text(message.content, f"{param}.content")}
    for name in ("name", "reasoning_content", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            converted[name] = value
    if message.tool_calls:
        converted["tool_calls"] = [
            _tool_call(call, f"{param}.tool_calls[{at}].function.arguments")
            for at, call in enumerate(message.tool_calls)
        ]
    return converted


def _tool_call(call: ToolCall, param: str) -> dict[str, Any]:
    return template_tool_call(call.id, call.function.name, call.function.arguments, param)
