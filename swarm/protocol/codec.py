"""Messages to frames and back: a 10-byte prefix, a MessagePack header, a raw payload. Knows no sockets.

    frame  = header length (u16) | part (u16) | parts (u16) | message number (u32) | header | payload bytes

Only part 0 has a header. Only Step, Output and Weights carry a payload, of exactly the size that their header says
(count x hidden x itemsize, or octets), in as many parts as needed; frames of other messages may pass between the
parts of one.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

import msgspec

from swarm.errors import ProtocolError
from swarm.protocol.limits import (
    BULK_TOKENS,
    MAX_CHUNK_BYTES,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    MAX_HIDDEN,
    MAX_INCOMPLETE,
    MAX_LISTING_BYTES,
    MAX_PART_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_TENSOR_HEADER_BYTES,
    MAX_TOKENS,
    MIN_PART_BYTES,
)
from swarm.protocol.messages import AnyMessage, Output, Step, Weights
from swarm.types import DTYPE_BYTES

Payload: TypeAlias = bytes | bytearray | memoryview
Frame: TypeAlias = tuple[bytes, memoryview]
"""Prefix and header, and a view of the payload's part; they follow each other on the wire."""

_PREFIX = struct.Struct("!HHHI")
_NUMBERS = 1 << 32
_EMPTY = memoryview(b"")

_encode_header = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(AnyMessage).decode


def payload_bytes(message: AnyMessage) -> int:
    """Return how many payload bytes a message must carry. Raises ProtocolError for an impossible shape."""
    if isinstance(message, Weights):
        limit = MAX_CHUNK_BYTES if message.kind == "chunk" else MAX_LISTING_BYTES
        if not 0 <= message.octets <= limit:
            raise ProtocolError(f"{message.octets} bytes of weights; at most {limit} are allowed")
        return message.octets
    if not isinstance(message, Step | Output):
        return 0
    if not 0 <= message.count <= MAX_TOKENS or not 0 < message.hidden <= MAX_HIDDEN:
        raise ProtocolError(f"a tensor of {message.count} x {message.hidden} is outside the limits")
    size = message.count * message.hidden * DTYPE_BYTES[message.dtype]
    if size > MAX_PAYLOAD_BYTES:
        raise ProtocolError(f"a payload of {size} bytes; at most {MAX_PAYLOAD_BYTES} are allowed")
    return size


def is_bulk(message: AnyMessage, parts: int) -> bool:
    """Say whether a message's payload goes against credits: several parts and more than a few tokens."""
    return parts > 1 and isinstance(message, Step | Output) and message.count > BULK_TOKENS


def encode(message: AnyMessage, payload: Payload = b"", *, number: int, part_bytes: int) -> list[Frame]:
    """Return the message's frames; they hold views of ``payload``, which must not change until they are sent.

    ``number`` tells apart the messages whose parts are under way at once on one link; ``part_bytes`` lies
    between MIN_PART_BYTES and MAX_PART_BYTES. Raises ValueError when the payload is not what the message
    announces, or the header is too large.
    """
    view = memoryview(payload).cast("B") if len(payload) else _EMPTY
    header = _encode_header(message)
    size = view.nbytes
    if size != payload_bytes(message):
        raise ValueError(
            f"{type(message).__name__} announces {payload_bytes(message)} payload bytes, not {size}"
        )
    if len(header) > (MAX_TENSOR_HEADER_BYTES if size else MAX_HEADER_BYTES):
        raise ValueError(
            f"the header of {type(message).__name__} has {len(header)} bytes, more than fit a frame"
        )
    number %= _NUMBERS
    if size <= part_bytes:
        return [(_PREFIX.pack(len(header), 0, 1, number) + header, view)]
    parts = -(-size // part_bytes)
    frames = [(_PREFIX.pack(len(header), 0, parts, number) + header, view[:part_bytes])]
    for part in range(1, parts):
        start = part * part_bytes
        frames.append((_PREFIX.pack(0, part, parts, number), view[start : start + part_bytes]))
    return frames


class _Assembly:
    """One message whose parts are arriving."""

    __slots__ = ("buffer", "bulk", "filled", "message", "part", "parts")

    def __init__(self, message: AnyMessage, parts: int, size: int) -> None:
        self.message = message
        self.parts = parts
        self.part = 0
        self.buffer = bytearray(size)
        self.filled = 0
        self.bulk = is_bulk(message, parts)


class FrameDecoder:
    """Puts the frames of one link together again. Whatever comes, it raises nothing but ProtocolError."""

    __slots__ = ("_incomplete", "_reserved", "bulk_bytes")

    def __init__(self) -> None:
        self._incomplete: dict[int, _Assembly] = {}
        self._reserved = 0
        self.bulk_bytes = 0
        """Payload bytes of bulk messages received so far: what credits are counted against."""

    def feed(self, frame: Payload) -> tuple[AnyMessage, memoryview] | None:
        """Take one frame; return the message it completes. A one-part payload is a view of ``frame``."""
        view = memoryview(frame)
        size = view.nbytes
        if size < _PREFIX.size or size > MAX_FRAME_BYTES:
            raise ProtocolError(f"a frame of {size} bytes")
        header_size, part, parts, number = _PREFIX.unpack_from(view)
        start = _PREFIX.size + header_size
        if part == 0:
            if start > size:
                raise ProtocolError(f"a header of {header_size} bytes in a frame of {size}")
            return self._first(view[_PREFIX.size : start], view[start:], parts, number)
        if header_size:
            raise ProtocolError("a header in a later part")
        return self._next(view[start:], part, parts, number)

    def _first(
        self, header: memoryview, part: memoryview, parts: int, number: int
    ) -> tuple[AnyMessage, memoryview] | None:
        try:
            message: AnyMessage = _decode_header(header)
        except (ValueError, RecursionError) as exc:
            raise ProtocolError(f"not a message: {exc}") from None
        size = payload_bytes(message)
        if size and header.nbytes > MAX_TENSOR_HEADER_BYTES:
            raise ProtocolError(f"a header of {header.nbytes} bytes beside a payload")
        if parts == 1:
            if part.nbytes != size:
                raise ProtocolError(
                    f"{type(message).__name__} needs {size} payload bytes, {part.nbytes} came"
                )
            return message, part
        if not 2 <= parts <= -(-size // MIN_PART_BYTES):
            raise ProtocolError(f"{size} payload bytes in {parts} parts")
        if number in self._incomplete or len(self._incomplete) >= MAX_INCOMPLETE:
            raise ProtocolError("too many messages under way at once")
        if self._reserved + size > MAX_PAYLOAD_BYTES:
            raise ProtocolError(f"more than {MAX_PAYLOAD_BYTES} bytes in incomplete messages")
        assembly = _Assembly(message, parts, size)
        self._incomplete[number] = assembly
        self._reserved += size
        return self._append(assembly, part, number)

    def _next(
        self, payload: memoryview, part: int, parts: int, number: int
    ) -> tuple[AnyMessage, memoryview] | None:
        assembly = self._incomplete.get(number)
        if assembly is None or part != assembly.part or parts != assembly.parts:
            raise ProtocolError(f"part {part} of {parts} is not the one that is due")
        return self._append(assembly, payload, number)

    def _append(
        self, assembly: _Assembly, part: memoryview, number: int
    ) -> tuple[AnyMessage, memoryview] | None:
        size = part.nbytes
        end = assembly.filled + size
        assembly.part += 1
        last = assembly.part == assembly.parts
        if (
            not 0 < size <= MAX_PART_BYTES
            or end > len(assembly.buffer)
            or (end == len(assembly.buffer)) != last
        ):
            raise ProtocolError(
                f"the parts of a {type(assembly.message).__name__} do not add up to its payload"
            )
        assembly.buffer[assembly.filled : end] = part
        assembly.filled = end
        if assembly.bulk:
            self.bulk_bytes += size
        if not last:
            return None
        del self._incomplete[number]
        self._reserved -= end
        return assembly.message, memoryview(assembly.buffer)
