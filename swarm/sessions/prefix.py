"""Names of the leading blocks of a token sequence, so that hops can know equal prefixes without knowing tokens.

Pure. name_i = HMAC(secret of this front door, name_{i-1} | scope | token ids of block i), 16 bytes: equal names
mean equal tokens from the start, for one front door and one scope (an API key), and tell a hop nothing else.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable

from swarm.protocol.limits import MAX_PREFIX_BLOCKS, PREFIX_BLOCK_TOKENS, PREFIX_NAME_BYTES


class PrefixNames:
    """The names of one answer's blocks, growing with its tokens."""

    def __init__(self, secret: bytes, scope: str) -> None:
        self._secret = secret
        self._scope = scope.encode()
        self._open: list[int] = []
        self._names: list[bytes] = []

    def extend(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self._open.append(token)
            if len(self._open) == PREFIX_BLOCK_TOKENS:
                self._names.append(self._name())
                self._open.clear()

    def covering(self, tokens: int) -> tuple[bytes, ...]:
        """Return the names of the whole blocks among the first ``tokens`` tokens."""
        return tuple(self._names[: min(max(tokens, 0) // PREFIX_BLOCK_TOKENS, MAX_PREFIX_BLOCKS)])

    def _name(self) -> bytes:
        before = self._names[-1] if self._names else b""
        ids = struct.pack(f"<{len(self._open)}I", *self._open)
        fields = b"".join(len(field).to_bytes(4, "little") + field for field in (before, self._scope, ids))
        return hmac.digest(self._secret, fields, "sha256")[:PREFIX_NAME_BYTES]
