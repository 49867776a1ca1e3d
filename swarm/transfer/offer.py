"""What a member says of the files it shares: a listing, and which of its chunks it has. Trusts no field of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import msgspec

from swarm.errors import ModelError, ProtocolError
from swarm.models.chunks import DIGEST_BYTES, Chunks, Ranges, chunk_count, numbers_of
from swarm.models.manifest import FileEntry, is_companion, is_weight_file
from swarm.protocol.limits import MAX_LISTING_BYTES
from swarm.types import NodeId

_HEX = re.compile(r"[0-9a-f]{64}\Z")
_MAX_SIZE = MAX_LISTING_BYTES // DIGEST_BYTES
"""Chunks of one file: its table has to fit a message."""
_MAX_CHUNKS = 1 << 23


class OfferedFile(msgspec.Struct, frozen=True, array_like=True):
    """A file of a listing; ``root`` is empty when the sender has not got its table."""

    name: str
    size: int
    sha256: str
    root: str = ""
    held: Ranges = ()
    """Chunks of this file that the sender has."""

    @property
    def entry(self) -> FileEntry:
        return FileEntry(self.name, self.size, self.sha256)


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """A listing, in the order of the names, and the digest of that of its companions (empty: none)."""

    files: tuple[OfferedFile, ...]
    companions: str = ""

    def held(self, chunks: Chunks) -> set[int]:
        """Return the numbers of the chunks that the sender has, counted through all files."""
        return {
            chunks.first(at) + number
            for at, file in enumerate(self.files)
            for number in numbers_of(file.held)
        }


_decode = msgspec.msgpack.Decoder(Offer).decode
encode_offer = msgspec.msgpack.Encoder().encode


def decode_offer(payload: bytes | memoryview, digest: str) -> tuple[Offer, Chunks]:
    """Read an offer of the listing ``digest``. Raises ProtocolError for one that no honest member sends."""
    try:
        offer = _decode(payload)
        chunks = Chunks(file.entry for file in offer.files)
    except (msgspec.MsgspecError, ModelError) as exc:
        raise ProtocolError(f"an offer of weights: {exc}") from None
    if chunks.digest != digest:
        raise ProtocolError("an offer of weights that are not those of its digest")
    if chunks.files != tuple(file.entry for file in offer.files):
        raise ProtocolError("an offer of weights out of order")
    if len({file.name.lower() for file in offer.files}) != len(offer.files) or chunks.total > _MAX_CHUNKS:
        raise ProtocolError("an offer of weights names one file twice, or too many chunks")
    allowed = is_weight_file if any(is_weight_file(file.name) for file in offer.files) else is_companion
    for file in offer.files:
        if not allowed(file.name):
            raise ProtocolError(
                f"an offer of weights names {file.name[:80]!r}, which is none of a model's files"
            )
        if not _fits(file):
            raise ProtocolError(f"an offer of weights: the chunks of {file.name[:80]} are impossible")
    if offer.companions and not _HEX.match(offer.companions):
        raise ProtocolError("an offer of weights: the companions' digest is none")
    return offer, chunks


def _fits(file: OfferedFile) -> bool:
    count = chunk_count(file.size)
    borders = [0, *(border for pair in file.held for border in pair)]
    in_order = all(before <= after for before, after in pairwise(borders))
    return (
        count <= _MAX_SIZE
        and in_order
        and borders[-1] <= count
        and (not file.root or bool(_HEX.match(file.root)))
    )


def roots_of(offers: Mapping[NodeId, Offer], file: int) -> list[tuple[str, frozenset[NodeId]]]:
    """Return the roots that members name for a file, each with who does: the most believable first.

    A member that has the whole file could check its root against the SHA-256; one that has a part repeats what
    it was told. So the root that most whole holders name comes first, then the one that most members do.
    """
    votes: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for offer in offers.values():
        offered = offer.files[file]
        if offered.root:
            votes[offered.root] += 1
            whole[offered.root] += offered.held == ((0, chunk_count(offered.size)),)
    return [
        (root, frozenset(node for node, offer in offers.items() if offer.files[file].root == root))
        for root in sorted(votes, key=lambda root: (-whole[root], -votes[root], root))
    ]
