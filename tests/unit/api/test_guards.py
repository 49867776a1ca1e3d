"""Host, Origin, Content-Type and key checks."""

from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.api.errors import (
    ContentTypeError,
    ForeignOriginError,
    MisdirectedError,
    MissingKeyError,
    WrongKeyError,
)
from swarm.api.guards import Guard, is_loopback
from swarm.config import ApiSettings

GUARD = Guard.of(ApiSettings(hosts=("Door.example",), origins=("https://app.example/",)))
NAMES = st.text(string.ascii_lowercase + string.digits + "-.", min_size=1, max_size=30)
PORTS = st.integers(1, 65535)


def is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@given(st.ip_addresses(), st.none() | PORTS)
def test_every_ip_literal_is_a_host_of_this_door(address: ipaddress.IPv4Address, port: int | None) -> None:
    name = f"[{address}]" if address.version == 6 else str(address)
    value = name if port is None else f"{name}:{port}"
    assert GUARD.check_host([value]) == value


@given(
    NAMES.filter(lambda name: name not in ("localhost", "door.example") and not is_ip(name)),
    st.none() | PORTS,
)
def test_no_foreign_name_is_a_host_of_this_door(name: str, port: int | None) -> None:
    with pytest.raises(MisdirectedError):
        GUARD.check_host([name if port is None else f"{name}:{port}"])


@given(st.text(max_size=40))
def test_a_host_that_passes_is_an_ip_literal_or_a_known_name(value: str) -> None:
    try:
        GUARD.check_host([value])
    except MisdirectedError:
        return
    name = value.rsplit(":", 1)[0] if not value.endswith("]") and ":" in value else value
    assert is_ip(name.strip("[]")) or name.lower() in ("localhost", "door.example")


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["localhost", "localhost"],
        [""],
        ["localhost.evil.example"],
        ["evil@localhost"],
        ["localhost:x"],
        ["::1"],
    ],
)
def test_odd_hosts_are_refused(values: list[str]) -> None:
    with pytest.raises(MisdirectedError):
        GUARD.check_host(values)


@given(NAMES, PORTS, st.sampled_from(["http", "https"]), NAMES, PORTS, st.sampled_from(["http", "https"]))
def test_an_origin_passes_only_when_scheme_host_and_port_are_the_same(
    name: str, port: int, scheme: str, other: str, other_port: int, other_scheme: str
) -> None:
    host = f"{name}:{port}"
    assert GUARD.check_origin([f"{scheme}://{host}"], scheme, host) is None
    if (name, port, scheme) != (other, other_port, other_scheme):
        with pytest.raises(ForeignOriginError):
            GUARD.check_origin([f"{other_scheme}://{other}:{other_port}"], scheme, host)


@given(
    st.text(max_size=40).filter(
        lambda text: text.lower() not in ("https://app.example", "http://localhost:80")
    )
)
def test_no_text_but_the_own_and_the_configured_origin_passes(text: str) -> None:
    if text.lower() == "http://localhost":
        return
    with pytest.raises(ForeignOriginError):
        GUARD.check_origin([text], "http", "localhost")


def test_the_default_port_may_be_left_out_and_a_configured_origin_is_told() -> None:
    assert GUARD.check_origin(["http://localhost"], "http", "localhost:80") is None
    assert GUARD.check_origin(["https://app.example"], "http", "localhost") == "https://app.example"
    assert GUARD.check_origin([], "http", "localhost") is None


@pytest.mark.parametrize(
    "origin", ["null", "", "file://", "http://localhost@evil.example", "http://localhost/x"]
)
def test_opaque_and_crafted_origins_are_refused(origin: str) -> None:
    with pytest.raises(ForeignOriginError):
        GUARD.check_origin([origin], "http", "localhost")
    with pytest.raises(ForeignOriginError):
        GUARD.check_origin(["http://localhost", origin], "http", "localhost")


@given(st.text(max_size=40))
def test_only_json_passes_as_content_type(value: str) -> None:
    if value.partition(";")[0].strip().lower() == "application/json":
        GUARD.check_content_type([value])
    else:
        with pytest.raises(ContentTypeError):
            GUARD.check_content_type([value])


@pytest.mark.parametrize(
    "value", ["application/json", "Application/JSON; charset=utf-8", "application/json;x=1"]
)
def test_json_passes_with_parameters(value: str) -> None:
    GUARD.check_content_type([value])


@given(
    st.lists(st.text(string.ascii_letters, min_size=1), min_size=1, max_size=4),
    st.text(string.ascii_letters, min_size=1),
)
def test_a_key_passes_exactly_when_it_is_configured(keys: list[str], asked: str) -> None:
    guard = Guard.of(ApiSettings(keys=tuple(keys)))
    if asked in keys:
        assert guard.caller([f"Bearer {asked}"]).has_key
    else:
        with pytest.raises(WrongKeyError):
            guard.caller([f"Bearer {asked}"])


def test_without_configured_keys_everyone_passes_and_with_them_a_header_is_due() -> None:
    assert not GUARD.caller([]).has_key
    assert not GUARD.caller(["Bearer anything"]).has_key
    guarded = Guard.of(ApiSettings(keys=("k",)))
    with pytest.raises(MissingKeyError):
        guarded.caller([])
    for header in ("k", "Bearer", "Bearer ", "Basic k", "Bearer k k"):
        with pytest.raises(WrongKeyError):
            guarded.caller([header])
    with pytest.raises(WrongKeyError):
        guarded.caller(["Bearer k", "Bearer k"])
    assert guarded.caller(["bearer k"]).has_key


def test_the_key_is_not_found_in_what_the_caller_carries() -> None:
    caller = Guard.of(ApiSettings(keys=("sesame",))).caller(["Bearer sesame"])
    assert "sesame" not in repr(caller)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("x", False),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
