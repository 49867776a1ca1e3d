"""One given value -> one setting's value, or an error saying what is expected. Doesn't know who gave it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from typing import Any

from swarm.config.knob import Knob
from swarm.config.settings import ApiKey, ModelChoice
from swarm.types import Address, LayerSpan

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_KEY_FIELDS = ("name", "key", "sha256", "max_concurrent", "requests_per_minute")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_TRUE_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_PATTERNS = {
    "model.device": (re.compile(r"auto|cpu|mps|cuda(:\d+)?"), "auto, cpu, cuda, cuda:N or mps"),
    "model.private_layers": (re.compile(r"|\d+(:\d+)?"), "K or K:M, for example 2 or 2:1"),
    "node.labels": (
        re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:=-]{0,31}"),
        "a label (1 to 32 letters, digits or _ . : = -)",
    ),
    "model.pins": (
        re.compile(r"[^@\s]+@[0-9a-f]{8,64}(:[0-9a-f]{64})?"),
        "NAME@DIGEST, with 8 hex digits of the digest or more, and after a colon the chunk root, if any",
    ),
    "node.allow": (re.compile(r"[a-z2-7]{32}"), "node ids (32 lower-case base32 characters each)"),
    "node.ban": (re.compile(r"[a-z2-7]{32}"), "node ids (32 lower-case base32 characters each)"),
}
_MOST = {"node.labels": 16}
"""What fits the record that a node signs of itself."""


def convert(knob: Knob, given: object) -> Any:
    """Return ``given`` (from TOML or a flag) as the setting's own type. Raises ValueError."""
    value = _CONVERTERS[knob.kind](knob, given)
    if isinstance(value, str):
        value = next((one for one in knob.declared.choices if one.lower() == value.lower()), value)
    _check(knob, value)
    return value


def _check(knob: Knob, value: Any) -> None:
    if knob.declared.choices and value not in knob.declared.choices:
        raise ValueError(f"{value!r} is none of {', '.join(knob.declared.choices)}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{value} is not zero or more")
        if knob.field.endswith("_share") and value > 1:
            raise ValueError(f"{value} is not a share between 0 and 1")
    if isinstance(value, tuple) and len(value) > _MOST.get(knob.name, len(value)):
        raise ValueError(f"{len(value)} given, {_MOST[knob.name]} allowed")
    pattern, expected = _PATTERNS.get(knob.name, (None, ""))
    if pattern is not None:
        for text in value if isinstance(value, tuple) else (value,):
            if not pattern.fullmatch(text):
                raise ValueError(f"{text!r} is not {expected}")


def _kind_of(given: object) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(given), f"a {type(given).__name__}")


def _wrong(expected: str, given: object) -> ValueError:
    return ValueError(f"must be {expected}, not {_kind_of(given)}")


def _text(_knob: Knob, given: object) -> str:
    if not isinstance(given, str):
        raise _wrong("text", given)
    return given


def _flag(_knob: Knob, given: object) -> bool:
    if isinstance(given, str) and given.lower() in _TRUE_WORDS:
        return _TRUE_WORDS[given.lower()]
    if not isinstance(given, bool):
        raise _wrong("true or false", given)
    return given


def _whole(knob: Knob, given: object) -> int:
    expected = (
        "a number of bytes, for example 1048576 or 2GiB"
        if knob.field.endswith("_bytes")
        else "a whole number"
    )
    if isinstance(given, str) and given.strip().isdecimal():
        return int(given)
    if isinstance(given, str) and knob.field.endswith("_bytes"):
        return round(_quantity(given, _BYTES, expected))
    if isinstance(given, bool) or not isinstance(given, int):
        raise _wrong(expected, given)
    return given


def read_bytes(text: str) -> int:
    """Read a number of bytes, such as ``2GiB``. Raises ValueError."""
    if text.strip().isdecimal():
        return int(text)
    return round(_quantity(text, _BYTES, "a number of bytes, for example 1048576 or 2GiB"))


def _number(knob: Knob, given: object) -> float:
    duration = knob.field.endswith("_seconds")
    expected = "seconds, for example 2.5, 500ms or 10m" if duration else "a number"
    if isinstance(given, str):
        try:
            return float(given)
        except ValueError:
            return _quantity(given, _SECONDS if duration else {}, expected)
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise _wrong(expected, given)
    return float(given)


def _quantity(given: str, units: dict[str, Any], expected: str) -> float:
    match = _QUANTITY.fullmatch(given.strip())
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{given!r} is not {expected}")
    return float(match[1]) * float(units[match[2].lower()])


def _address(knob: Knob, given: object) -> Address:
    if isinstance(given, int) and not isinstance(given, bool) and knob.declared.host is not None:
        given = str(given)
    if not isinstance(given, str):
        raise _wrong("an address" if knob.declared.host is None else "a port or HOST:PORT", given)
    return Address.parse(given, knob.declared.host)


def _optional_address(knob: Knob, given: object) -> Address | None:
    return None if given in ("", "none") else _address(knob, given)


def _addresses(knob: Knob, given: object) -> tuple[Address, ...]:
    if isinstance(given, str):
        given = given.split(",")
    if not isinstance(given, list | tuple):
        raise _wrong("a list of addresses (HOST:PORT)", given)
    return tuple(_address(knob, each) for each in given)


def _texts(_knob: Knob, given: object) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list | tuple):
        raise _wrong("a list of texts", given)
    for each in given:
        if not isinstance(each, str):
            raise ValueError(f"must be a list of texts; there is {_kind_of(each)} in it")
    return tuple(given)


def _keys(knob: Knob, given: object) -> tuple[str | ApiKey, ...]:
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list | tuple):
        raise _wrong("a list of keys or [[api.keys]] tables", given)
    keys = tuple(_key_table(each) if isinstance(each, dict) else _text(knob, each) for each in given)
    names = [key.name for key in keys if isinstance(key, ApiKey)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two tables have the name {name!r}")
    return keys


def _key_table(given: dict[str, object]) -> ApiKey:
    """Errors name fields, never what stands in them."""
    if unknown := given.keys() - _KEY_FIELDS:
        raise ValueError(f"unknown field {min(unknown)!r} in a table; there are {', '.join(_KEY_FIELDS)}")
    name, key, digest = given.get("name"), given.get("key"), given.get("sha256")
    if not isinstance(name, str) or not name:
        raise ValueError("each table needs a name")
    if (key is None) == (digest is None):
        raise ValueError(f"{name}: give either key or sha256")
    if key is not None:
        if not isinstance(key, str) or not key:
            raise ValueError(f"{name}: key must be text")
        raw = hashlib.sha256(key.encode()).digest()
    else:
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError(f"{name}: sha256 must be 64 hex digits")
        raw = bytes.fromhex(digest)
    return ApiKey(
        name, raw, _limit(name, given, "max_concurrent"), _limit(name, given, "requests_per_minute")
    )


def _limit(name: str, given: dict[str, object], field: str) -> int | None:
    value = given.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: {field} must be a whole number above zero")
    return value


def _models(knob: Knob, given: object) -> tuple[str | ModelChoice, ...]:
    if isinstance(given, str):
        return (given,) if given else ()
    if not isinstance(given, list | tuple):
        raise _wrong("a text, a list of texts or [[models]] tables", given)
    return tuple(_model_table(knob, each) if isinstance(each, dict) else _text(knob, each) for each in given)


def _model_table(knob: Knob, given: dict[str, object]) -> ModelChoice:
    if unknown := given.keys() - {"name", "layers"}:
        raise ValueError(f"unknown field {min(unknown)!r} in a table; there are name, layers")
    name, layers = given.get("name"), given.get("layers")
    if not isinstance(name, str) or not name:
        raise ValueError("each table needs a name")
    return ModelChoice(name, None if layers is None else _layers(knob, layers))


def _layers(_knob: Knob, given: object) -> LayerSpan | str:
    if not isinstance(given, str):
        raise _wrong("a span A:B, auto or none", given)
    return given if given in ("auto", "none") else LayerSpan.parse(given)


_CONVERTERS: dict[Any, Callable[[Knob, object], Any]] = {
    str: _text,
    bool: _flag,
    int: _whole,
    float: _number,
    Address: _address,
    Address | None: _optional_address,
    tuple[Address, ...]: _addresses,
    tuple[str, ...]: _texts,
    tuple[str | ApiKey, ...]: _keys,
    tuple[str | ModelChoice, ...]: _models,
    LayerSpan | str: _layers,
}
