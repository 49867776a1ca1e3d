"""Merging records: neither order nor repetition of their arrival may matter, and nothing forged gets in."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import ProtocolError
from swarm.gossip.anti_entropy import digest_of, lacking
from swarm.gossip.member import EQUIVOCATING
from swarm.gossip.record import IntendedSpan, decode_static
from swarm.gossip.suspicion import Claims
from swarm.gossip.table import Table
from swarm.protocol.messages import Digest, SignedRecord
from swarm.types import LayerSpan, ModelId

MakePeer = Callable[[str], "object"]


@pytest.fixture(scope="module")
def records() -> list[SignedRecord]:
    """Two members, several lives and versions each, some versions with two bodies."""
    from tests.unit.gossip.conftest import Peer

    found = []
    for peer in (Peer("alice"), Peer("bob")):
        for incarnation in (1, 2):
            for sequence in (1, 2):
                found += [peer.static(incarnation, sequence, name=name) for name in ("x", "y")]
                found.append(peer.load(incarnation, sequence))
    return found


def table_of(arrivals: list[SignedRecord], swarm_id: bytes) -> Table:
    table = Table((swarm_id,), 100)
    for record in arrivals:
        merge(table, record)
    return table


def merge(table: Table, record: SignedRecord) -> None:
    if record.kind == "static":
        table.merge_static(record, 0.0, lambda _: True)
    else:
        table.merge_load(record, 0.0)


def versions(table: Table) -> list[tuple[object, ...]]:
    """What a view holds, without the flags: those need both bodies of one version."""
    return [(e.node, e.incarnation, e.sequence, e.digest) for e in digest_of(table)]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_view_depends_on_the_set_of_records_only(
    data: st.DataObject, records: list[SignedRecord], swarm_id: bytes
):
    some = data.draw(st.lists(st.sampled_from(records), max_size=12))
    shuffled = data.draw(st.permutations(some + some[:5]))
    assert versions(table_of(some, swarm_id)) == versions(table_of(shuffled, swarm_id))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_two_views_that_exchange_digests_become_equal(
    data: st.DataObject, records: list[SignedRecord], swarm_id: bytes
):
    views = [table_of(data.draw(st.lists(st.sampled_from(records), max_size=12)), swarm_id) for _ in range(2)]
    for _ in range(3):
        for mine, theirs in (views, views[::-1]):
            items = lacking(mine, Claims(), Digest(digest_of(theirs)), "somebody")
            arrivals = [item for item in items if isinstance(item, SignedRecord)]
            for item in arrivals:
                merge(theirs, item)
            statics = [item for item in arrivals if item.kind == "static"]
            for one in statics:
                for other in statics:
                    theirs.merge_proof(one, other)
    assert digest_of(views[0]) == digest_of(views[1])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_merging_is_associative(data: st.DataObject, records: list[SignedRecord], swarm_id: bytes):
    parts = [data.draw(st.lists(st.sampled_from(records), max_size=5)) for _ in range(3)]
    statics = [[record for record in part if record.kind == "static"] for part in parts]

    def joined(one: Table, other: Table) -> Table:
        return table_of([e.static.signed for e in (*one.entries.values(), *other.entries.values())], swarm_id)

    a, b, c = (table_of(part, swarm_id) for part in statics)
    assert versions(joined(joined(a, b), c)) == versions(joined(a, joined(b, c)))


def test_a_second_body_of_one_version_flags_the_member_until_its_next_incarnation(peer, swarm_id):
    alice = peer("alice")
    table = table_of([alice.static(name="x"), alice.static(name="y")], swarm_id)
    assert digest_of(table)[0].state & EQUIVOCATING
    merge(table, alice.static(1, 2))
    assert digest_of(table)[0].state & EQUIVOCATING
    merge(table, alice.static(2, 3))
    assert not digest_of(table)[0].state & EQUIVOCATING


def test_a_load_record_of_an_earlier_incarnation_is_not_shown(peer, swarm_id):
    alice = peer("alice")
    table = table_of([alice.static(1), alice.load(1, 5), alice.static(2, 2)], swarm_id)
    assert table.entries[alice.node].load is None
    merge(table, alice.load(1, 9))
    assert table.entries[alice.node].load is None
    merge(table, alice.load(2, 6))
    assert table.entries[alice.node].load is not None


def test_a_body_is_stored_byte_for_byte_with_fields_of_a_newer_version(peer, swarm_id):
    import msgspec

    alice = peer("alice")
    fields = [*msgspec.msgpack.decode(alice.static().body), "a field of tomorrow"]
    signed = alice.sign("static", msgspec.msgpack.encode(fields))
    table = table_of([signed], swarm_id)
    assert table.entries[alice.node].static.signed.body == signed.body


def test_a_record_of_an_older_version_lacks_labels_and_intentions(peer):
    intended = (IntendedSpan(ModelId("tiny", "0" * 64), LayerSpan(0, 2), 6, True, 12.5),)
    body = peer("alice").static(labels=("home",), intended=intended, memory_bytes=5).body
    record = decode_static(body)
    assert (record.labels, record.intended, record.memory_bytes) == (("home",), intended, 5)
    older = decode_static(msgspec.msgpack.encode(msgspec.msgpack.decode(body)[:-3]))
    assert (older.labels, older.intended, older.memory_bytes) == ((), (), 0)


@pytest.mark.parametrize("wrong", [LayerSpan(0, 7), LayerSpan(6, 8)])
def test_an_intention_beyond_the_models_layers_is_refused(peer, wrong):
    intended = (IntendedSpan(ModelId("tiny", "0" * 64), wrong, 6, False, 0.0),)
    with pytest.raises(ProtocolError):
        decode_static(peer("alice").static(intended=intended).body)


def _flipped(record: SignedRecord) -> SignedRecord:
    return SignedRecord(record.kind, record.body, bytes([record.signature[0] ^ 1]) + record.signature[1:])


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda a, b: _flipped(a.static()), id="flipped signature"),
        pytest.param(lambda a, b: b.sign("static", a.static().body), id="signed by another"),
        pytest.param(lambda a, b: a.static(public_key=b.key.public_bytes), id="another's key"),
        pytest.param(lambda a, b: a.static(node=b.node), id="another's id"),
        pytest.param(lambda a, b: SignedRecord("static", b"\xc1", b"\0" * 64), id="not MessagePack"),
        pytest.param(lambda a, b: a.static(models=(), name="n" * 65), id="long name"),
        pytest.param(lambda a, b: a.sign("static", a.static().body + b"\0" * 2048), id="oversized"),
        pytest.param(lambda a, b: a.static(state="emperor"), id="unknown state"),
        pytest.param(lambda a, b: a.static(2**60), id="huge incarnation"),
        pytest.param(lambda a, b: a.static(boot=b""), id="no boot id"),
        pytest.param(lambda a, b: a.static(name="\x1b[2J"), id="control characters"),
        pytest.param(lambda a, b: a.static(labels=tuple("abcdefghijklmnopq")), id="17 labels"),
        pytest.param(lambda a, b: a.static(labels=("l" * 33,)), id="long label"),
        pytest.param(lambda a, b: a.static(labels=("\x1b[2J",)), id="control characters in a label"),
    ],
)
def test_a_bad_static_record_is_refused_and_changes_nothing(forge, peer, swarm_id):
    table = Table((swarm_id,), 100)
    with pytest.raises(ProtocolError):
        table.merge_static(forge(peer("alice"), peer("bob")), 0.0, lambda _: True)
    assert not table.entries


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda a, b: _flipped(a.load(1, 2)), id="flipped signature"),
        pytest.param(lambda a, b: b.sign("load", a.load(1, 2).body), id="signed by another"),
        pytest.param(lambda a, b: a.load(1, 2, tokens_per_second=float("nan")), id="not a number"),
        pytest.param(lambda a, b: a.load(1, 2, queued_rows=-1), id="negative"),
        pytest.param(lambda a, b: a.sign("load", a.load(1, 2).body + b"\0" * 800), id="oversized"),
        pytest.param(
            lambda a, b: SignedRecord("load", a.static(1, 2).body, a.static(1, 2).signature), id="other kind"
        ),
    ],
)
def test_a_bad_load_record_is_refused_and_changes_nothing(forge, peer, swarm_id):
    alice = peer("alice")
    table = table_of([alice.static(), alice.load()], swarm_id)
    before = digest_of(table)
    with pytest.raises(ProtocolError):
        table.merge_load(forge(alice, peer("bob")), 0.0)
    assert digest_of(table) == before


def test_a_full_view_takes_a_new_member_only_in_place_of_a_gone_one(peer, swarm_id):
    table = Table((swarm_id,), 2)
    alice, bob, carol = peer("alice"), peer("bob"), peer("carol")
    for record in (alice.static(), bob.static(), carol.static()):
        merge(table, record)
    assert set(table.entries) == {alice.node, bob.node}
    merge(table, alice.static(1, 2, state="left"))
    merge(table, carol.static())
    assert set(table.entries) == {bob.node, carol.node}
