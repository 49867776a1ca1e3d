"""What is sent first, and what waits for credit."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.net.sendqueue import Priority, SendQueue, priority_of
from swarm.protocol.codec import Frame
from swarm.protocol.limits import BULK_TOKENS
from swarm.protocol.messages import AnyMessage, Credit, Heartbeat, Output, Step, Weights
from swarm.types import NodeId, SessionId


def frame(name: bytes, size: int = 0) -> Frame:
    return name, memoryview(bytes(size))


def tensor(kind: type[Step] | type[Output], count: int) -> AnyMessage:
    values: dict[str, Any] = {"rows": "last"} if kind is Step else {}
    return kind(
        origin=NodeId("a" * 32),
        session=SessionId(bytes(16)),
        epoch=1,
        step=1,
        position=0,
        count=count,
        hidden=4096,
        dtype="float32",
        **values,
    )


def drained(queue: SendQueue) -> list[bytes]:
    return [popped[0] for popped in iter(queue.pop, None)]


def test_control_goes_before_decode_before_bulk_before_weights_and_each_in_order() -> None:
    queue = SendQueue()
    queue.credit = 1000
    for priority in (Priority.WEIGHTS, Priority.BULK, Priority.DECODE, Priority.CONTROL):
        for number in (b"1", b"2"):
            queue.push(priority, frame(priority.name.encode() + number))
    in_order = [
        b"CONTROL1",
        b"CONTROL2",
        b"DECODE1",
        b"DECODE2",
        b"BULK1",
        b"BULK2",
        b"WEIGHTS1",
        b"WEIGHTS2",
    ]
    assert drained(queue) == in_order


def test_weights_need_no_credit_and_are_counted_apart() -> None:
    queue = SendQueue()
    queue.push(Priority.WEIGHTS, frame(b"w", 10))
    queue.push(Priority.BULK, frame(b"b", 10))
    assert (queue.weights_bytes, queue.queued_bytes) == (11, 22)
    assert drained(queue) == [b"w"]
    assert (queue.weights_bytes, queue.queued_bytes) == (0, 11)


def test_bulk_waits_for_credit_and_holds_nothing_else_up() -> None:
    queue = SendQueue()
    queue.credit = 150
    for name in (b"b1", b"b2"):
        queue.push(Priority.BULK, frame(name, 100))
    queue.push(Priority.DECODE, frame(b"d", 5000))
    assert drained(queue) == [b"d", b"b1"]
    assert queue.credit == 50
    queue.credit += 50
    assert drained(queue) == [b"b2"]
    assert queue.credit == 0


def test_the_queued_bytes_are_those_still_to_be_sent() -> None:
    queue = SendQueue()
    queue.push(Priority.CONTROL, frame(b"ctrl"))
    queue.push(Priority.DECODE, frame(b"step", 100))
    assert queue.queued_bytes == 108
    queue.pop()
    assert queue.queued_bytes == 104
    drained(queue)
    assert queue.queued_bytes == 0


@pytest.mark.parametrize("kind", [Step, Output])
def test_many_tokens_in_several_parts_are_bulk(kind: type[Step] | type[Output]) -> None:
    assert priority_of(tensor(kind, BULK_TOKENS + 1), 2) is Priority.BULK
    assert priority_of(tensor(kind, BULK_TOKENS + 1), 1) is Priority.DECODE
    assert priority_of(tensor(kind, BULK_TOKENS), 2) is Priority.DECODE


def test_weights_are_last_however_small() -> None:
    assert priority_of(Weights("d" * 64, "chunk", 0, 1), 1) is Priority.WEIGHTS


def test_everything_else_is_control() -> None:
    assert priority_of(Heartbeat(1, 1, 1), 1) is Priority.CONTROL
    assert priority_of(Credit(1), 1) is Priority.CONTROL
