"""How much went over all links of a process, by what it was for; links come and go, these sums only grow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from swarm.protocol.messages import (
    AnyMessage,
    CheckPeer,
    Credit,
    Digest,
    Gossip,
    Heartbeat,
    Leave,
    NoWeights,
    Output,
    PeerChecked,
    Probe,
    ProbeAnswer,
    Step,
    WantWeights,
    Weights,
)

_PURPOSES: dict[type, str] = {
    **dict.fromkeys((Step, Output), "steps"),
    **dict.fromkeys((Heartbeat, Gossip, Digest, CheckPeer, PeerChecked, Leave), "gossip"),
    **dict.fromkeys((WantWeights, Weights, NoWeights), "weights"),
    **dict.fromkeys((Probe, ProbeAnswer, Credit), "link"),
}
OTHERS = "sessions"


@dataclass(slots=True)
class Traffic:
    """Bytes of frames, without what TLS adds."""

    sent_bytes: Counter[str] = field(default_factory=Counter)
    received_bytes: int = 0

    def sent(self, message: AnyMessage, size_bytes: int) -> None:
        self.sent_bytes[_PURPOSES.get(type(message), OTHERS)] += size_bytes
