"""Frames: round trips, exact sizes, interleaved parts, and nothing but ProtocolError on what peers send."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import ProtocolError
from swarm.protocol.codec import FrameDecoder, encode, is_bulk
from swarm.protocol.limits import (
    BULK_TOKENS,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    MAX_INCOMPLETE,
    MAX_PART_BYTES,
    MAX_PAYLOAD_BYTES,
)
from swarm.protocol.messages import (
    AnyMessage,
    Gossip,
    Heartbeat,
    HopTime,
    Output,
    Refused,
    Renew,
    SignedRecord,
    Step,
)
from swarm.types import NodeId, SessionId

ORIGIN = NodeId("a" * 32)
SESSION = SessionId(b"s" * 16)
PART = MAX_PART_BYTES
HEARTBEAT = Heartbeat(7, 6, 1500)


def step(count: int, hidden: int = 1024, **changes: Any) -> Step:
    values: dict[str, Any] = {
        "origin": ORIGIN,
        "session": SESSION,
        "epoch": 3,
        "step": 70_000,
        "position": 100_000,
        "count": count,
        "hidden": hidden,
        "dtype": "bfloat16",
        "rows": "last",
        "times": (HopTime(1500, 25_000, 12),),
    }
    return Step(**(values | changes))


def frames(message: AnyMessage, payload: bytes = b"", number: int = 1, part_bytes: int = PART) -> list[bytes]:
    return [b"".join(frame) for frame in encode(message, payload, number=number, part_bytes=part_bytes)]


def frame(header: bytes, part: int = 0, parts: int = 1, number: int = 1, payload: bytes = b"") -> bytes:
    """Build a frame by hand, as a peer with ideas of its own might."""
    return struct.pack("!HHHI", len(header), part, parts, number) + header + payload


MESSAGES: list[AnyMessage] = [
    HEARTBEAT,
    Gossip((SignedRecord("static", b"body", bytes(64)),)),
    Refused(ORIGIN, SESSION, 1, "full", 250),
    Renew((SESSION,)),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_without_payload_comes_back(message: AnyMessage) -> None:
    (only,) = frames(message)
    assert FrameDecoder().feed(only) == (message, memoryview(b""))


def test_a_small_payload_comes_back_as_a_view_of_its_frame() -> None:
    message, payload = step(1), bytes(range(256)) * 8
    (only,) = frames(message, payload)
    decoded = FrameDecoder().feed(only)
    assert decoded is not None
    assert decoded == (message, payload)
    assert decoded[1].obj is only


def test_a_decode_step_with_one_hop_time_costs_under_200_bytes() -> None:
    message = step(1, hidden=4096, epoch=1 << 20, step=1 << 40, position=1 << 20)
    (only,) = frames(message, bytes(8192))
    assert len(only) - 8192 < 200


@given(count=st.integers(0, 600), part_bytes=st.sampled_from([4096, 10_000, PART]))
def test_payloads_of_any_size_come_back(count: int, part_bytes: int) -> None:
    payload = bytes(i % 251 for i in range(count * 128))
    message = step(count, hidden=64)
    decoder = FrameDecoder()
    results = [decoder.feed(part) for part in frames(message, payload, part_bytes=part_bytes)]
    assert results[:-1] == [None] * (len(results) - 1)
    assert results[-1] == (message, payload)


def test_parts_of_messages_may_interleave_and_others_pass_between_them() -> None:
    first, second = step(96, step=1), step(64, step=2)
    one = frames(first, b"1" * 96 * 2048, number=1)
    two = frames(second, b"2" * 64 * 2048, number=2)
    decoder = FrameDecoder()
    order = [one[0], two[0], frames(HEARTBEAT, number=3)[0], one[1], two[1], one[2]]
    results = [decoder.feed(part) for part in order]
    assert results[2] == (HEARTBEAT, b"")
    assert results[4] == (second, b"2" * 64 * 2048)
    assert results[5] == (first, b"1" * 96 * 2048)


def test_bulk_bytes_count_prompts_and_not_decode_steps() -> None:
    decoder = FrameDecoder()
    for message, size in ((step(BULK_TOKENS, hidden=8192), BULK_TOKENS * 16384), (step(64), 64 * 2048)):
        for part in frames(message, bytes(size)):
            decoder.feed(part)
    assert decoder.bulk_bytes == 64 * 2048
    assert is_bulk(step(BULK_TOKENS + 1), 2)
    assert not is_bulk(step(BULK_TOKENS + 1), 1)


@pytest.mark.parametrize(
    ("message", "payload"),
    [(step(2), bytes(2048)), (step(1), b""), (HEARTBEAT, b"x"), (step(1), bytes(2049))],
)
def test_encoding_a_payload_that_does_not_match_is_the_callers_error(
    message: AnyMessage, payload: bytes
) -> None:
    with pytest.raises(ValueError, match="payload bytes"):
        frames(message, payload)


def test_encoding_a_header_that_does_not_fit_is_the_callers_error() -> None:
    with pytest.raises(ValueError, match="header"):
        frames(Renew(tuple(SESSION for _ in range(MAX_HEADER_BYTES // 16))))
    with pytest.raises(ValueError, match="header"):
        frames(step(1, times=tuple(HopTime(1, 1, 1) for _ in range(4000))), bytes(2048))


def test_the_largest_frames_stay_within_the_frame_limit() -> None:
    largest = frames(step(64, times=tuple(HopTime(1, 1, 1) for _ in range(2000))), bytes(64 * 2048))
    assert max(map(len, largest)) <= MAX_FRAME_BYTES
    (headers_only,) = frames(Renew(tuple(SESSION for _ in range(3600))))
    assert len(headers_only) <= MAX_FRAME_BYTES


def header(message: AnyMessage) -> bytes:
    return msgspec.msgpack.encode(message)


BAD_FRAMES = {
    "empty": b"",
    "shorter than a prefix": b"\0" * 9,
    "larger than a frame": bytes(MAX_FRAME_BYTES + 1),
    "a header beyond the frame": struct.pack("!HHHI", 50, 0, 1, 1) + b"x",
    "no header": frame(b""),
    "garbage": frame(b"\xc1\xc1\xc1"),
    "an unknown tag": frame(msgspec.msgpack.encode(["zz", 1])),
    "a wrong type": frame(msgspec.msgpack.encode(["hb", "one", 2, 3])),
    "bytes after the header": frame(header(HEARTBEAT) + b"\0"),
    "broken text": frame(b"\x93\xa2cp\xa2\xff\xfe\x01"),
    "deep nesting": frame(b"\x95\xa2hb\x01\x02\x03" + b"\x91" * 60_000 + b"\x01"),
    "a list of four thousand million": frame(b"\x92\xa2rn\xdd\xff\xff\xff\xff"),
    "bytes of four thousand million": frame(b"\x92\xa2rn\x91\xc6\xff\xff\xff\xff"),
    "a payload on a heartbeat": frame(header(HEARTBEAT), payload=b"x"),
    "a heartbeat in two parts": frame(header(HEARTBEAT), parts=2),
    "too little payload": frame(header(step(1)), payload=bytes(2047)),
    "too much payload": frame(header(step(1)), payload=bytes(2049)),
    "no payload": frame(header(step(1))),
    "a negative count": frame(header(step(-1))),
    "no hidden size": frame(header(step(1, hidden=0))),
    "a count of a million": frame(header(step(1_000_000)), parts=2, payload=bytes(PART)),
    "a tebibyte": frame(header(step(65_536, hidden=65_536)), parts=16, payload=bytes(PART)),
    "an unknown dtype": frame(header(step(1, dtype="float8")), payload=bytes(1024)),
    "zero parts": frame(header(step(1)), parts=0, payload=bytes(2048)),
    "more parts than bytes make sense": frame(header(step(64)), parts=40, payload=bytes(4096)),
    "a first part that is empty": frame(header(step(64)), parts=2),
    "a first part that is all": frame(header(step(32)), parts=2, payload=bytes(PART)),
    "a part of nothing begun": frame(b"", part=1, parts=2, payload=bytes(100)),
    "a header beside a payload that is too long": frame(header(step(1)) + bytes(9000), payload=bytes(2048)),
}


@pytest.mark.parametrize("bad", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_a_malformed_frame_is_a_protocol_error(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        FrameDecoder().feed(bad)


@pytest.mark.parametrize(
    "second",
    [
        frame(b"", part=2, parts=3, payload=bytes(100)),
        frame(b"", part=1, parts=2, payload=bytes(100)),
        frame(b"", part=1, parts=3),
        frame(b"x", part=1, parts=3, payload=bytes(100)),
        frame(b"", part=1, parts=3, payload=bytes(MAX_PART_BYTES + 1)),
        frame(header(step(96)), parts=3, payload=bytes(PART)),
    ],
    ids=["skips one", "of another total", "empty", "with a header", "too large", "begins again"],
)
def test_a_second_part_that_does_not_follow_is_a_protocol_error(second: bytes) -> None:
    decoder = FrameDecoder()
    decoder.feed(frame(header(step(96)), parts=3, payload=bytes(PART)))
    with pytest.raises(ProtocolError):
        decoder.feed(second)


def test_parts_that_do_not_add_up_are_a_protocol_error() -> None:
    for last in (PART - 1, PART + 1):
        decoder = FrameDecoder()
        decoder.feed(frame(header(step(64)), parts=2, payload=bytes(PART)))
        with pytest.raises(ProtocolError):
            decoder.feed(frame(b"", part=1, parts=2, payload=bytes(last)))


def test_only_a_few_messages_may_be_incomplete() -> None:
    decoder = FrameDecoder()
    for number in range(MAX_INCOMPLETE):
        decoder.feed(frame(header(step(64)), parts=2, number=number, payload=bytes(PART)))
    with pytest.raises(ProtocolError, match="at once"):
        decoder.feed(frame(header(step(64)), parts=2, number=99, payload=bytes(PART)))


def test_incomplete_messages_share_one_memory_limit() -> None:
    half = step(8192, hidden=MAX_PAYLOAD_BYTES // 8192 // 2)
    parts = MAX_PAYLOAD_BYTES // PART
    decoder = FrameDecoder()
    decoder.feed(frame(header(half), parts=parts, number=1, payload=bytes(PART)))
    with pytest.raises(ProtocolError, match="incomplete"):
        decoder.feed(frame(header(step(64)), parts=2, number=2, payload=bytes(PART)))


def test_fields_that_a_newer_version_adds_are_ignored() -> None:
    newer = msgspec.msgpack.encode(["hb", 7, 6, 1500, "new", {"field": [1]}])
    assert FrameDecoder().feed(frame(newer)) == (HEARTBEAT, b"")


def test_an_output_of_no_rows_needs_no_payload() -> None:
    output = Output(ORIGIN, SESSION, 1, 1, 5, 0, 1024, "float32")
    (only,) = frames(output)
    assert FrameDecoder().feed(only) == (output, b"")


HONEST = [
    part
    for message in (*MESSAGES, step(1))
    for part in frames(message, bytes(2048) if isinstance(message, Step) else b"")
]
HONEST += frames(step(96), bytes(96 * 2048), number=9)
MUTATIONS = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(HONEST),
    st.tuples(st.sampled_from(HONEST), st.integers(0, 300), st.binary(max_size=6)).map(
        lambda edit: edit[0][: edit[1]] + edit[2] + edit[0][edit[1] + len(edit[2]) :]
    ),
    st.tuples(st.sampled_from(HONEST), st.integers(0, 400)).map(lambda cut: cut[0][: cut[1]]),
    st.builds(
        frame,
        st.binary(max_size=60),
        st.integers(0, 4),
        st.integers(0, 4),
        st.integers(0, 3),
        st.binary(max_size=60),
    ),
)


@given(st.lists(MUTATIONS, max_size=12))
def test_whatever_comes_only_protocol_errors_are_raised(stream: list[bytes]) -> None:
    decoder = FrameDecoder()
    for data in stream:
        try:
            decoded = decoder.feed(data)
        except ProtocolError:
            return
        assert decoded is None or isinstance(decoded[0], msgspec.Struct)
