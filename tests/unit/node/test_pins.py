"""What settings and invites say of models' weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.errors import ConfigError
from swarm.node.keystore import CHUNK_ROOTS_FILE, Keystore
from swarm.node.pins import Pins

DIGEST, OTHER, ROOT, BROUGHT = "a" * 64, "b" * 64, "1" * 64, "2" * 64


def test_a_pin_says_what_a_name_means_and_may_prove_its_chunks() -> None:
    pins = Pins([f"org/one@{DIGEST[:8]}:{ROOT}", f"org/two@{OTHER[:8]}"])
    assert pins.digest("org/one") == DIGEST[:8]
    assert pins.digest("org/two") == OTHER[:8]
    assert pins.digest("org/three") == ""
    assert pins.chunk_root(DIGEST) == ROOT
    assert pins.chunk_root(OTHER) == ""


def test_the_settings_come_before_what_an_invite_brought() -> None:
    pins = Pins([f"org/one@{DIGEST[:8]}:{ROOT}"], {DIGEST: BROUGHT, OTHER: BROUGHT})
    assert pins.chunk_root(DIGEST) == ROOT
    assert pins.chunk_root(OTHER) == BROUGHT


def test_what_invites_brought_is_kept_and_the_last_one_counts(tmp_path: Path) -> None:
    with Keystore(tmp_path) as keystore:
        assert keystore.chunk_roots() == {}
        keystore.save_chunk_roots({DIGEST: ROOT})
        keystore.save_chunk_roots({})
        keystore.save_chunk_roots({DIGEST: BROUGHT, OTHER: ROOT})
        assert keystore.chunk_roots() == {DIGEST: BROUGHT, OTHER: ROOT}
        (tmp_path / CHUNK_ROOTS_FILE).write_text('{"model": "no digest"}')
        with pytest.raises(ConfigError, match="damaged"):
            keystore.chunk_roots()
