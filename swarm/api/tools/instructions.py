"""How tools are shown to a model whose template takes none: the specification's instruction block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from swarm.api.tools.definitions import FunctionTool


def with_tool_block(
    messages: Sequence[dict[str, Any]], tools: Sequence[FunctionTool]
) -> list[dict[str, Any]]:
    """Return the messages with the block in the system message."""
    block = _block(tools)
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{block}"}, *messages[1:]]
    return [{"role": "system", "content": block}, *messages]


def with_plain_calls(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with earlier calls and results as text, for templates that know neither."""
    return [_plain(message) for message in messages]


def _block(tools: Sequence[FunctionTool]) -> str:
    listed = "\n".join(msgspec.json.encode(tool.for_template()["function"]).decode() for tool in tools)
    return (
        "You can call these functions:\n"
        f"{listed}\n\n"
        "To call one, answer with nothing but a JSON object that has its name and its arguments, like this:\n"
        f"{_example(tools[0])}\n"
        "When no function is needed, answer in plain text."
    )


def _example(tool: FunctionTool) -> str:
    """An example with real names: small models copy placeholders as they stand."""
    properties = (tool.parameters or {}).get("properties")
    names = list(properties) if isinstance(properties, dict) else []
    example = {"name": tool.name, "arguments": dict.fromkeys(names, "...")}
    return msgspec.json.encode(example).decode()


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result of the function call:\n{message['content']}"}
    if calls := message.get("tool_calls"):
        written = "\n".join(
            msgspec.json.encode(
                {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
            ).decode()
            for call in calls
        )
        return {"role": "assistant", "content": f"{message['content']}\n{written}".strip()}
    return message
