"""What travels between a front door and the process that renders its templates: a length, then MessagePack."""

from __future__ import annotations

import msgspec

HEAD_BYTES = 4


class Rendered(msgspec.Struct, frozen=True):
    """The text, or why there is none."""

    text: str = ""
    refusal: str = ""


def framed(value: msgspec.Struct) -> bytes:
    body = msgspec.msgpack.encode(value)
    return len(body).to_bytes(HEAD_BYTES, "big") + body


def size_of(head: bytes) -> int:
    return int.from_bytes(head, "big")
