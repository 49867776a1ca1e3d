"""What membership asks its driver to do, in order. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.protocol.messages import AnyMessage
from swarm.types import Address, NodeId


@dataclass(frozen=True, slots=True)
class Send:
    """Send on the link to ``node``; dropped if the link is gone."""

    node: NodeId
    message: AnyMessage


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect; report ``link_up`` or ``dial_failed``. ``expected`` is who must answer, if that is known."""

    address: Address
    expected: NodeId | None


@dataclass(frozen=True, slots=True)
class Abort:
    """Cut the link to ``node`` without a farewell, and report ``link_down``."""

    node: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close the link to ``node`` as an overlay change, which says nothing against it, and report ``link_down``."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class SaveIncarnation:
    """Make ``value`` durable before executing the effects after this one."""

    value: int


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """The member's record, load, health or routability is another, or it was forgotten."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class LinkSuspect:
    """The peer is silent, or does not hear this node: streams over the link move away now."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class LinkTrusted:
    """A suspect link works again."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class OwnIdentityElsewhere:
    """Another running process answers every incarnation of this one: the state folder was copied."""

    detail: str


Effect = (
    Send
    | Dial
    | Abort
    | Close
    | SaveIncarnation
    | MemberChanged
    | LinkSuspect
    | LinkTrusted
    | OwnIdentityElsewhere
)
