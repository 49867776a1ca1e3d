"""Node keys, the swarm secret, keyrings and signed records."""

from __future__ import annotations

import pytest

from swarm.protocol.identity import (
    Keyring,
    NodeKey,
    SwarmSecret,
    node_id_of,
    sign_claim,
    sign_record,
    verify,
    verify_claim,
    verify_record,
)
from swarm.protocol.messages import SignedRecord, SignedSuspicion

KEY = NodeKey.from_seed(bytes(range(32)))
OTHER = NodeKey.from_seed(bytes(32))
SECRET_HEX = "ab" * 32


def test_a_seed_always_makes_the_same_node() -> None:
    again = NodeKey.from_seed(KEY.seed)
    assert (again.public_bytes, again.node_id) == (KEY.public_bytes, KEY.node_id)
    assert KEY.node_id == "gnc3hg3yxjqcm55glfv3erapkywflw72"
    assert node_id_of(KEY.public_bytes) == KEY.node_id != OTHER.node_id


def test_a_seed_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        NodeKey.from_seed(bytes(31))


def test_a_signature_holds_for_its_key_and_data_only() -> None:
    signature = KEY.sign(b"data")
    assert verify(KEY.public_bytes, signature, b"data")
    assert not verify(OTHER.public_bytes, signature, b"data")
    assert not verify(KEY.public_bytes, signature, b"Data")


@pytest.mark.parametrize(
    ("public_key", "signature"),
    [
        (b"", bytes(64)),
        (bytes(31), bytes(64)),
        (b"\xff" * 32, bytes(64)),
        (KEY.public_bytes, b""),
        (KEY.public_bytes, bytes(65)),
    ],
)
def test_malformed_keys_and_signatures_verify_as_false(public_key: bytes, signature: bytes) -> None:
    assert verify(public_key, signature, b"data") is False


def test_the_swarm_id_and_the_admission_key_follow_from_the_secret() -> None:
    secret = SwarmSecret.from_hex(f"  {SECRET_HEX}\n")
    assert secret.hex() == SECRET_HEX
    assert (len(secret.swarm_id), len(secret.admission_key)) == (16, 32)
    assert secret == SwarmSecret.from_hex(SECRET_HEX.upper())
    other = SwarmSecret.from_hex("ac" * 32)
    assert secret.swarm_id != other.swarm_id
    assert secret.admission_key != other.admission_key


def test_no_text_about_a_secret_shows_it() -> None:
    secret = SwarmSecret.from_hex(SECRET_HEX)
    for text in (repr(secret), str(secret), repr(Keyring((secret,)))):
        assert SECRET_HEX[:8] not in text
        assert repr(secret.secret)[2:20] not in text
        assert repr(secret.admission_key)[2:20] not in text


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "zz" * 32, "a password"])
def test_what_is_no_secret_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="64 hex digits") as caught:
        SwarmSecret.from_hex(text)
    assert not text or text not in str(caught.value)


def test_a_keyring_prefers_its_first_secret_and_finds_all() -> None:
    ring = Keyring.parse(f"# rotation of May\n{SECRET_HEX}  # new\n\n{'cd' * 32}\n")
    new, old = ring.secrets
    assert ring.preferred is new
    assert ring.find(old.swarm_id) is old
    assert ring.find(bytes(16)) is None


def test_a_bad_line_of_a_keyring_is_named() -> None:
    with pytest.raises(ValueError, match="line 2"):
        Keyring.parse(f"{SECRET_HEX}\nnot hex\n")
    with pytest.raises(ValueError, match="at least one"):
        Keyring.parse("# nothing here\n")


def test_a_record_verifies_only_as_it_was_signed() -> None:
    swarm = SwarmSecret.from_hex(SECRET_HEX).swarm_id
    record = sign_record(KEY, swarm, "static", b"body")
    assert verify_record(KEY.public_bytes, swarm, record)
    assert not verify_record(OTHER.public_bytes, swarm, record)
    assert not verify_record(KEY.public_bytes, bytes(16), record)
    assert not verify_record(KEY.public_bytes, swarm, SignedRecord("load", record.body, record.signature))
    assert not verify_record(KEY.public_bytes, swarm, SignedRecord("static", b"bodx", record.signature))


def test_a_claim_is_no_record() -> None:
    swarm = bytes(16)
    claim = sign_claim(KEY, swarm, b"body")
    assert verify_claim(KEY.public_bytes, swarm, claim)
    record = sign_record(KEY, swarm, "static", b"body")
    assert not verify_claim(KEY.public_bytes, swarm, SignedSuspicion(record.body, record.signature))
