"""What waits to be sent on one link: control, decode, bulk against credits, weights. Opens no socket."""

from __future__ import annotations

from collections import deque
from enum import IntEnum

from swarm.protocol.codec import Frame, is_bulk
from swarm.protocol.messages import AnyMessage, Output, Step, Weights


class Priority(IntEnum):
    CONTROL = 0
    DECODE = 1
    BULK = 2
    WEIGHTS = 3


def priority_of(message: AnyMessage, parts: int) -> Priority:
    """Return a message's class: few tokens are someone waiting for the next word, many are a prompt."""
    if isinstance(message, Weights):
        return Priority.WEIGHTS
    if not isinstance(message, Step | Output):
        return Priority.CONTROL
    return Priority.BULK if is_bulk(message, parts) else Priority.DECODE


class SendQueue:
    """Frames by priority, first in first out within one; ``pop`` never lets bulk exceed the credit.

    Weights need no credit: their receiver asks for every chunk, and for a few at once.
    """

    __slots__ = ("_lanes", "credit", "queued_bytes", "weights_bytes")

    def __init__(self) -> None:
        self._lanes: tuple[deque[Frame], ...] = tuple(deque() for _ in Priority)
        self.credit = 0
        """Payload bytes of bulk that the peer still takes."""
        self.queued_bytes = 0
        self.weights_bytes = 0
        """Of ``queued_bytes``, those of weights."""

    def push(self, priority: Priority, frame: Frame) -> None:
        self._lanes[priority].append(frame)
        self.queued_bytes += _size(frame)
        if priority is Priority.WEIGHTS:
            self.weights_bytes += _size(frame)

    def pop(self) -> Frame | None:
        """Return the frame to send next, or None if nothing may go now."""
        for lane in self._lanes[: Priority.BULK]:
            if lane:
                return self._took(lane.popleft())
        bulk = self._lanes[Priority.BULK]
        if bulk and bulk[0][1].nbytes <= self.credit:
            self.credit -= bulk[0][1].nbytes
            return self._took(bulk.popleft())
        weights = self._lanes[Priority.WEIGHTS]
        if weights:
            self.weights_bytes -= _size(weights[0])
            return self._took(weights.popleft())
        return None

    def _took(self, frame: Frame) -> Frame:
        self.queued_bytes -= _size(frame)
        return frame


def _size(frame: Frame) -> int:
    return len(frame[0]) + frame[1].nbytes
