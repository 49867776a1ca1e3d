"""Every message of an authenticated link: frozen values in one tagged union. They carry no behaviour.

Headers are MessagePack arrays (array_like): unknown trailing fields of a newer version are ignored, missing
ones of an older version take their defaults, so fields are only ever added at the end.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from swarm.types import BootId, LayerSpan, ModelId, NodeId, SessionId

Dtype = Literal["bfloat16", "float16", "float32"]
Rows = Literal["none", "last", "all"]
RefusalCode = Literal[
    "full", "draining", "no_model", "unreachable", "log_gap", "bad_tensor", "not_yours", "version", "failed"
]


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Root of all messages. ``gc=False``: they hold no reference cycles."""


# --- gossip -------------------------------------------------------------------------------------------------


class SignedRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record's exact bytes and its subject's signature over "swarm/1 record" | swarm id | kind | body.

    ``kind`` is ``static`` or ``load``. The body is stored and relayed as it came, never encoded again.
    """

    kind: Literal["static", "load"]
    body: bytes
    signature: bytes


class SignedSuspicion(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A signed claim by ``signer`` that ``subject`` at ``incarnation`` is SUSPECT or DEAD."""

    body: bytes
    signature: bytes


class Heartbeat(Message, frozen=True, tag="hb"):
    """Sent on every link each 250 ms. ``echo`` is the last ``number`` received, ``held_microseconds`` how long ago."""

    number: int
    echo: int
    held_microseconds: int


class Gossip(Message, frozen=True, tag="go"):
    """Records and suspicions spread eagerly; each is verified by every receiver."""

    records: tuple[SignedRecord, ...] = ()
    suspicions: tuple[SignedSuspicion, ...] = ()


class DigestEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the sender holds of one member: versions only."""

    node: NodeId
    incarnation: int
    sequence: int
    load_sequence: int
    state: int
    digest: bytes = b""
    """First 8 bytes of the SHA-256 of the static body: equal versions with other content still differ."""


class Digest(Message, frozen=True, tag="di"):
    """Anti-entropy: the receiver answers with what the sender lacks, and a Digest of its own when ``reply``.

    A large view is told in several: each speaks of the ids from ``first`` up to but not including ``end``.
    """

    entries: tuple[DigestEntry, ...]
    reply: bool = False
    first: str = ""
    end: str = ""
    """Empty: no bound."""


class CheckPeer(Message, frozen=True, tag="cp"):
    """Indirect check: does the receiver hear ``subject``'s own heartbeats?"""

    subject: NodeId
    nonce: int


class PeerChecked(Message, frozen=True, tag="pc"):
    subject: NodeId
    nonce: int
    alive: bool


class Leave(Message, frozen=True, tag="le"):
    """The sender leaves now; its last record says LEFT. Nobody starts a suspicion for it."""

    record: SignedRecord


# --- link ---------------------------------------------------------------------------------------------------


class Probe(Message, frozen=True, tag="pr"):
    """Asks the other end of a link for a ProbeAnswer at once (duplicate identity, doubtful links)."""

    nonce: int


class ProbeAnswer(Message, frozen=True, tag="pa"):
    nonce: int


class Credit(Message, frozen=True, tag="cr"):
    """The receiver of bulk data (prefill) grants that many more payload bytes."""

    octets: int


# --- steps --------------------------------------------------------------------------------------------------


class Hop(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One place of a path: which process computes which layers. Never an address."""

    node: NodeId
    boot: BootId
    span: LayerSpan


class OpenSession(Message, frozen=True, tag="os"):
    """Origin to every hop: take part in this session, reserve KV, set the epoch, truncate to ``keep``."""

    origin: NodeId
    session: SessionId
    epoch: int
    model: ModelId
    dtype: Dtype
    hops: tuple[Hop, ...]
    index: int
    """Which of ``hops`` the receiver is."""
    kv_tokens: int
    keep: int
    deadline_milliseconds: int
    blocks: tuple[bytes, ...] = ()
    """Names of the prompt's leading prefix blocks, 16 bytes each."""


class Opened(Message, frozen=True, tag="op"):
    origin: NodeId
    session: SessionId
    epoch: int
    kv_length: int
    hit_tokens: int = 0
    floor: int = 0
    """The shortest length that this hop's KV can be truncated to."""
    index: int = 0
    log_from: int = -1
    """Up to ``kv_length`` the hop can replay what it sent on, from this position on; -1: nothing of it."""


class Refused(Message, frozen=True, tag="re"):
    """A hop can't (or can no longer) take part.

    ``next`` names the neighbour that is why, if one is: the next hop that can't be reached or, with ``bad_tensor``,
    the hop before, whose rows were bad when they came.
    """

    origin: NodeId
    session: SessionId
    epoch: int
    code: RefusalCode
    retry_milliseconds: int = 0
    detail: str = ""
    next: NodeId | None = None
    index: int = -1
    """Which place of the path refuses; -1: not said."""


class HopTime(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one hop spent on a step, in microseconds, and how many rows shared its forward pass."""

    queue_microseconds: int
    compute_microseconds: int
    batch_rows: int


class Step(Message, frozen=True, tag="st"):
    """Hidden states of ``count`` tokens from ``position`` on; the payload is [count, hidden] in ``dtype``."""

    origin: NodeId
    session: SessionId
    epoch: int
    step: int
    position: int
    count: int
    hidden: int
    dtype: Dtype
    rows: Rows
    times: tuple[HopTime, ...] = ()
    fill_until: int = 0
    """Not 0: the step only fills KV, of the hops before this place; the last of them answers Filled."""
    index: int = 0
    """Which of the session's hops the receiver is: a node may stand twice in a path (--private-layers)."""


class Output(Message, frozen=True, tag="ou"):
    """Last hop to origin: the payload is [count, hidden], the rows the step asked for.

    A step with ``rows`` none is answered with ``count`` 0: the origin's window of prefill chunks moves on it.
    """

    origin: NodeId
    session: SessionId
    epoch: int
    step: int
    position: int
    count: int
    hidden: int
    dtype: Dtype
    times: tuple[HopTime, ...] = ()


class Busy(Message, frozen=True, tag="bu"):
    """Hop to origin: the step waits in a queue that moves, so its deadline starts anew."""

    origin: NodeId
    session: SessionId
    epoch: int
    step: int


class Need(Message, frozen=True, tag="ne"):
    """A hop to its upstream: steps are missing; send again from ``step`` (or from token ``position``)."""

    origin: NodeId
    session: SessionId
    epoch: int
    step: int
    position: int


class Renew(Message, frozen=True, tag="rn"):
    """Origin to hop, each 3 s on the direct link: these sessions live; their KV lease starts anew."""

    sessions: tuple[SessionId, ...]


class CloseSession(Message, frozen=True, tag="cs"):
    """Origin to hop: the session ends at place ``index`` of the path that ``epoch`` names, or wherever it is."""

    origin: NodeId
    session: SessionId
    epoch: int
    blocks: tuple[bytes, ...] = ()
    """Names of the session's leading blocks, under which the hop may keep their KV for a later session."""
    index: int = -1
    """-1: every place of epochs up to ``epoch``."""


class Replay(Message, frozen=True, tag="rp"):
    """Origin to a hop: send ``count`` rows from ``position`` on, as sent on before, to ``to`` as a fill Step.

    ``to`` is that session's hop ``to_index`` at epoch ``to_epoch``, which may be ahead of the sender's ``epoch``.
    """

    origin: NodeId
    session: SessionId
    epoch: int
    index: int
    step: int
    position: int
    count: int
    fill_until: int
    to: NodeId
    to_epoch: int
    to_index: int


class Filled(Message, frozen=True, tag="fi"):
    """The last hop that a fill Step was for, to the origin: its KV now reaches up to ``position``."""

    origin: NodeId
    session: SessionId
    epoch: int
    step: int
    position: int
    index: int
    times: tuple[HopTime, ...] = ()


class Drain(Message, frozen=True, tag="dr"):
    """The sender will end these sessions of the receiver's soon, so the receiver should move them elsewhere.

    Without any it means all, and that the sender takes no new ones and leaves.
    """

    sessions: tuple[SessionId, ...] = ()


# --- weights ------------------------------------------------------------------------------------------------

WeightsKind = Literal["offer", "table", "chunk"]


class WantWeights(Message, frozen=True, tag="ww"):
    """Asks for a piece of the listing of files with this digest: never for a path.

    ``offer``: the listing, and which chunks the receiver has. ``table``: the digests of the chunks of file
    ``index`` of the listing. ``chunk``: chunk ``index``, counted through all files.
    """

    digest: str
    kind: WeightsKind
    index: int = 0


class Weights(Message, frozen=True, tag="wd"):
    """Answers WantWeights; the payload has ``octets`` bytes."""

    digest: str
    kind: WeightsKind
    index: int
    octets: int


class NoWeights(Message, frozen=True, tag="nw"):
    """Answers WantWeights: the sender has not got it, does not share, or is asked for too much at once."""

    digest: str
    kind: WeightsKind
    index: int
    code: Literal["absent", "not_shared", "full"]


AnyMessage = (
    Heartbeat
    | Gossip
    | Digest
    | CheckPeer
    | PeerChecked
    | Leave
    | Probe
    | ProbeAnswer
    | Credit
    | OpenSession
    | Opened
    | Refused
    | Step
    | Output
    | Busy
    | Need
    | Renew
    | CloseSession
    | Replay
    | Filled
    | Drain
    | WantWeights
    | Weights
    | NoWeights
)
