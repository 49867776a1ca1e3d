"""POST /v1/responses/compact: a conversation shortened to a summary that later requests take as an item."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from swarm.api.prompt import TemplateMessage
from swarm.api.responses.objects import MessageItem, ResponseUsage
from swarm.errors import RequestError

if TYPE_CHECKING:
    from swarm.api.responses.handler import RunningResponse

INSTRUCTION = (
    "Summarise our conversation so far for someone who will continue it: what was asked, what was found and "
    "decided, what is still open. Write only the summary."
)
_INTRODUCTION = "Summary of the conversation so far:\n"


class UserText(msgspec.Struct):
    text: str
    type: Literal["input_text"] = "input_text"


class UserMessage(msgspec.Struct, tag_field="type", tag="message"):
    id: str
    content: list[UserText]
    role: Literal["user"] = "user"
    status: Literal["completed"] = "completed"


class CompactionItem(msgspec.Struct, tag_field="type", tag="compaction"):
    """``encrypted_content`` is opaque to clients, not secret: any front door of any swarm reads it."""

    id: str
    encrypted_content: str


class CompactedResponse(msgspec.Struct):
    id: str
    created_at: int
    output: list[UserMessage | CompactionItem]
    usage: ResponseUsage | None
    object: Literal["response.compaction"] = "response.compaction"


async def compacted(
    running: RunningResponse, conversation: Sequence[TemplateMessage], new_id: Callable[[str], str]
) -> CompactedResponse:
    """Return the user's messages and the summary. Raises SwarmError when it could not be completed."""
    response = await running.whole()
    summary = "".join(item.text for item in response.output if isinstance(item, MessageItem))
    kept: list[UserMessage | CompactionItem] = [
        UserMessage(new_id("msg"), [UserText(message["content"])])
        for message in conversation
        if message["role"] == "user"
    ]
    return CompactedResponse(
        id=new_id("resp"),
        created_at=int(time.time()),
        output=[*kept, CompactionItem(new_id("cmp"), sealed(summary))],
        usage=response.usage,
    )


def sealed(summary: str) -> str:
    return base64.urlsafe_b64encode(summary.encode()).decode()


def summary_message(encrypted_content: str | None, param: str) -> TemplateMessage:
    """Return what stands for a compaction item in a conversation. Raises RequestError."""
    try:
        summary = base64.urlsafe_b64decode((encrypted_content or "").encode()).decode()
    except (binascii.Error, UnicodeError):
        summary = ""
    if not summary:
        raise RequestError(
            f"Invalid '{param}.encrypted_content': it is not what /v1/responses/compact answered.",
            param=f"{param}.encrypted_content",
            code="invalid_value",
        )
    return {"role": "user", "content": _INTRODUCTION + summary}
