"""Computing spans of layers and the model's ends on one thread: bytes in, bytes out."""
