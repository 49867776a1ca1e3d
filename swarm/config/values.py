"""One given value -> one setting's value, or an error saying what is expected. Doesn't know who gave it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from swarm.config.knob import Knob
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
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_TRUE_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_PATTERNS = {
    "model.device": (re.compile(r"auto|cpu|mps|cuda(:\d+)?"), "auto, cpu, cuda, cuda:N or mps"),
    "model.private_layers": (re.compile(r"|\d+(:\d+)?"), "K or K:M, for example 2 or 2:1"),
    "node.allow": (re.compile(r"[a-z2-7]{32}"), "node ids (32 lower-case base32 characters each)"),
    "node.ban": (re.compile(r"[a-z2-7]{32}"), "node ids (32 lower-case base32 characters each)"),
}


def convert(knob: Knob, given: object) -> Any:
    """Return ``given`` (from TOML or a flag) as the setting's own type. Raises ValueError."""
    value = _CONVERTERS[knob.kind](knob, given)
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
    LayerSpan | str: _layers,
}
