"""What goes over the wire: identities, the handshake, messages and frames. Opens no socket, reads no clock."""
