"""Moving frames: TLS, the handshake on real sockets, links to peers. Knows no gossip and no tensors."""
