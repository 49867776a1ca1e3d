"""Offers of weights: what honest members say comes through, everything else is refused before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import ModelError, ProtocolError
from swarm.models.chunks import CHUNK_BYTES
from swarm.models.manifest import FileEntry, digest_of
from swarm.transfer.offer import Offer, OfferedFile, decode_offer, encode_offer, roots_of
from swarm.types import NodeId

A, B, C = (NodeId(letter * 32) for letter in "abc")
CONFIG = OfferedFile("config.json", 20, "1" * 64, "2" * 64, ((0, 1),))
WEIGHTS = OfferedFile("model.safetensors", 5 * CHUNK_BYTES, "3" * 64, "4" * 64, ((0, 2), (3, 5)))
FILES = (CONFIG, WEIGHTS)
DIGEST = digest_of(file.entry for file in FILES)


def changed(file: OfferedFile, **changes: Any) -> OfferedFile:
    return msgspec.structs.replace(file, **changes)


def test_an_offer_comes_back_with_the_chunks_that_are_held() -> None:
    offer, chunks = decode_offer(encode_offer(Offer(FILES, "5" * 64)), DIGEST)
    assert offer.companions == "5" * 64
    assert chunks.total == 6
    assert offer.held(chunks) == {0, 1, 2, 4, 5}


def test_a_listing_that_is_not_the_one_asked_for_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not those of its digest"):
        decode_offer(encode_offer(Offer((CONFIG, changed(WEIGHTS, size=1, held=())))), DIGEST)


@dataclass(frozen=True)
class Bad:
    files: tuple[OfferedFile, ...]
    why: str


@pytest.mark.parametrize(
    "bad",
    [
        Bad((CONFIG, changed(WEIGHTS, held=((0, 6),))), "chunks"),
        Bad((CONFIG, changed(WEIGHTS, held=((3, 2),))), "chunks"),
        Bad((CONFIG, changed(WEIGHTS, held=((-1, 2),))), "chunks"),
        Bad((CONFIG, changed(WEIGHTS, root="xyz")), "chunks"),
        Bad((WEIGHTS, CONFIG), "order"),
        Bad((CONFIG, changed(CONFIG, name="evil.py")), "none of a model's files"),
        Bad((CONFIG, changed(WEIGHTS, name="../model.safetensors")), "can't name"),
        Bad((changed(WEIGHTS, name="A.safetensors"), changed(WEIGHTS, name="a.safetensors")), "twice"),
        Bad((CONFIG, changed(WEIGHTS, size=1 << 50, held=())), "chunks|too many"),
        Bad((CONFIG, changed(WEIGHTS, size=-5, held=())), "size"),
    ],
    ids=lambda bad: bad.why + " " + str(bad.files[-1].name),
)
def test_what_no_honest_member_offers_is_refused(bad: Bad) -> None:
    try:
        digest = digest_of(file.entry for file in bad.files)
    except ModelError:  # the listing itself is impossible
        digest = DIGEST
    with pytest.raises(ProtocolError, match=bad.why):
        decode_offer(encode_offer(Offer(bad.files)), digest)


@given(st.binary(max_size=300))
def test_noise_is_refused_with_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_offer(payload, DIGEST)


def test_the_root_of_whole_holders_is_believed_before_that_of_many() -> None:
    whole = changed(WEIGHTS, held=((0, 5),), root="a" * 64)
    part = changed(WEIGHTS, root="b" * 64)
    offers = {A: Offer((CONFIG, part)), B: Offer((CONFIG, part)), C: Offer((CONFIG, whole))}
    assert roots_of(offers, 1) == [("a" * 64, frozenset({C})), ("b" * 64, frozenset({A, B}))]


def test_who_has_no_table_has_no_say() -> None:
    offers = {A: Offer((CONFIG, changed(WEIGHTS, root="", held=())))}
    assert roots_of(offers, 1) == []


def test_files_are_entries_of_the_listing() -> None:
    assert WEIGHTS.entry == FileEntry("model.safetensors", 5 * CHUNK_BYTES, "3" * 64)
