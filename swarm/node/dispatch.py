"""Frames that arrived, handed to whoever they are for. Decides nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.errors import ProtocolError
from swarm.protocol.messages import (
    AnyMessage,
    Busy,
    CheckPeer,
    CloseSession,
    Digest,
    Drain,
    Filled,
    Gossip,
    Heartbeat,
    Leave,
    Need,
    NoWeights,
    Opened,
    OpenSession,
    Output,
    PeerChecked,
    Refused,
    Renew,
    Replay,
    Step,
    WantWeights,
    Weights,
)

if TYPE_CHECKING:
    from swarm.net.peers import PeerInfo
    from swarm.node.gossip_loop import GossipLoop
    from swarm.node.origin import Origin
    from swarm.node.sharing import Sharing
    from swarm.node.stage_service import StageService
    from swarm.node.transfer import Transfer
    from swarm.types import NodeId


class Dispatch:
    """The network's receiver. Its parts are set once, before the first link exists."""

    gossip: GossipLoop
    stage: StageService
    origin: Origin
    sharing: Sharing
    transfer: Transfer

    def link_up(self, peer: PeerInfo) -> None:
        self.gossip.link_up(peer)

    def link_down(self, node: NodeId, reason: str, graceful: bool) -> None:  # noqa: ARG002
        self.sharing.gone(node)
        self.transfer.gone(node)
        self.gossip.link_down(node, graceful)

    def drained(self, node: NodeId) -> None:
        self.sharing.drained(node)

    def received(self, node: NodeId, message: AnyMessage, payload: memoryview) -> None:
        """Raises ProtocolError for a message that its sender may not send; the link closes."""
        match message:
            case Step():
                self.stage.on_step(node, message, payload)
            case Output() | Opened() | Refused() | Busy() | Filled():
                self.origin.received(node, message, payload)
            case Heartbeat() | Gossip() | Digest() | CheckPeer() | PeerChecked() | Leave():
                self.gossip.received(node, message)
            case OpenSession():
                self.stage.on_open(node, message)
            case CloseSession():
                self.stage.on_close(node, message)
            case Renew():
                self.stage.on_renew(node, message)
            case Need():
                self.stage.on_need(node, message)
            case Replay():
                self.stage.on_replay(node, message)
            case WantWeights():
                self.sharing.asked(node, message)
            case Weights() | NoWeights():
                self.transfer.received(node, message, payload)
            case Drain():
                self.origin.drained(node, message)
            case _:
                raise ProtocolError(f"unexpected message {type(message).__name__}")
