"""The rules of one answer's life, for its origin and for a hop, as pure machines. No clocks or sockets."""
