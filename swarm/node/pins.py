"""What a person says of models' weights: which of them a name means, and by what their chunks are proven. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class Pins:
    """The settings' pins (``NAME@DIGEST`` or ``NAME@DIGEST:ROOT``), and the chunk roots that invites brought."""

    def __init__(self, pins: Sequence[str] = (), brought: Mapping[str, str] | None = None) -> None:
        """``brought``: digest of a model -> its chunk root, both 64 hex digits."""
        self._digests: dict[str, str] = {}
        self._roots: list[tuple[str, str]] = []
        for pin in pins:
            name, _, rest = pin.rpartition("@")
            digest, _, root = rest.partition(":")
            self._digests[name] = digest
            if root:
                self._roots.append((digest, root))
        self._roots += (brought or {}).items()

    def digest(self, name: str) -> str:
        """Return the digest, or the beginning of it, that a name is pinned to; empty when it is not."""
        return self._digests.get(name, "")

    def chunk_root(self, digest: str) -> str:
        """Return the chunk root of a model by its digest, empty when nobody brought one: settings before invites."""
        return next((root for begin, root in self._roots if digest.startswith(begin)), "")
