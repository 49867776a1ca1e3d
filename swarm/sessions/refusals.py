"""What a hop's refusal means for its answer: who is to blame, whose KV is lost, what the client may be told. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.errors import OverloadedError, PeerError, SwarmError
from swarm.protocol.messages import Refused
from swarm.sessions.effects import Edge
from swarm.sessions.leg import Leg
from swarm.sessions.search import PathSearch
from swarm.types import NodeId

MAX_RETRY_SECONDS = 60
MAX_DETAIL_CHARACTERS = 300
"""What a hop says of when there is room, and of why it refuses, reaches clients: within bounds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``avoid`` is left until the next token, ``shun`` for longer and by other answers too."""

    error: SwarmError
    avoid: NodeId | None = None
    shun: Edge | None = None
    lost: NodeId | None = None
    """Whose KV is of no use any more; None: everybody's."""


def verdict(leg: Leg, sender: NodeId, message: Refused, search: PathSearch) -> Verdict:
    """Judge a refusal by a hop of ``leg``; ``search`` remembers who accused whom."""
    error, other = error_of(sender, message), message.next
    if message.code == "unreachable" and other is not None and leg.neighbours(sender, other):
        return Verdict(error, shun=(sender, other), lost=other)
    if message.code == "bad_tensor" and other is not None and leg.neighbours(other, sender):
        # Of what it made before, its neighbours' KV may be bad too: nothing is kept.
        return Verdict(error, avoid=search.accused(sender, other))
    return Verdict(error, avoid=sender, lost=None if message.code == "full" else sender)


def error_of(sender: NodeId, message: Refused) -> SwarmError:
    detail = message.detail[:MAX_DETAIL_CHARACTERS]
    if message.code == "full":
        retry = min(max(1, message.retry_milliseconds // 1000), MAX_RETRY_SECONDS)
        return OverloadedError(f"Every path is full for now: {detail or 'no KV cache left'}.", retry)
    return PeerError(sender, f"refused the session ({message.code}) {detail}".rstrip())
