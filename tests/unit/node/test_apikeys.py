"""API keys as a node's user sees and changes them."""

from __future__ import annotations

import hashlib

import pytest

from swarm.config import ApiKey
from swarm.errors import ConfigError
from swarm.node.apikeys import changed, key_id, listed

NAMED = ApiKey("laptop", hashlib.sha256(b"laptop-key").digest())


def test_a_list_shows_no_key_and_what_it_shows_names_one():
    shown = listed(["secret-one", NAMED])
    assert "secret" not in str(shown)
    assert [one["name"] for one in shown] == ["", "laptop"]
    assert changed(["secret-one", NAMED], (), [shown[0]["id"]]) == (NAMED,)


@pytest.mark.parametrize(
    "name", ["laptop", "laptop-key", key_id("laptop-key"), key_id("laptop-key")[:6].upper()]
)
def test_a_key_is_removed_by_its_id_its_name_or_itself(name: str):
    assert changed(["other", NAMED], (), [name]) == ("other",)


@pytest.mark.parametrize("name", ["", "nobody", key_id("other")[:5]])
def test_a_name_that_means_none_changes_nothing(name: str):
    with pytest.raises(ConfigError, match="none of the API keys"):
        changed(["other"], (), [name])


def test_a_key_is_added_once_and_can_take_the_place_of_another():
    assert changed(["old"], ["new", "new"], ["old"]) == ("new",)
    assert changed([NAMED], ["laptop-key"], ()) == (NAMED,)


@pytest.mark.parametrize("key", ["", "two words", "line\n", "schlüssel", "x" * 600])
def test_a_key_that_no_client_could_send_is_refused_without_being_shown(key: str):
    with pytest.raises(ConfigError) as refused:
        changed([], [key], ())
    assert not key or key not in str(refused.value)
