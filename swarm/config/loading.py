"""TOML text, environment and flags -> Config, and where each value came from. Opens no file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import tomli

from swarm.config.knob import Knob, knobs_of
from swarm.config.settings import Config
from swarm.config.values import convert
from swarm.errors import ConfigError

DEFAULT_ORIGIN = "default"
API_KEYS_VARIABLE = "SWARM_API_KEYS"

ALIASES = {
    "job_port": "api.listen",
    "oai_port": "api.listen",
    "openai_port": "api.listen",
    "api_keys": "api.keys",
    "models": "model.model",
}
"""The specification's names, besides the names outside tables that the settings themselves declare."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as it was given, and the words that name its place in an error."""

    knob: Knob
    value: object
    label: str
    origin: str


def flat_names() -> dict[str, str]:
    """Return the names that stand outside tables (with dashes: the flags), each with the setting it means."""
    declared = {knob.declared.flag: name for name, knob in knobs_of(Config).items() if knob.declared.flag}
    return declared | ALIASES


def load_config(
    toml_text: str | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object],
    *,
    source: str = "swarm.toml",
) -> tuple[Config, dict[str, str]]:
    """Return the settings and, for each ``section.field``, where its value came from.

    ``overrides`` has flags by their names outside tables (``listen``, ``api_key``); they win over the TOML
    text, which wins over the environment. ``source`` is what errors and origins call the text. Raises
    ConfigError naming the key.
    """
    given: dict[str, _Given] = {}
    for layer in (_from_environment(environ), _from_toml(toml_text or "", source), _from_flags(overrides)):
        given |= layer
    config, origins = Config(), dict.fromkeys(knobs_of(Config), DEFAULT_ORIGIN)
    sections: dict[str, dict[str, Any]] = {}
    for name, each in given.items():
        try:
            sections.setdefault(each.knob.section, {})[each.knob.field] = convert(each.knob, each.value)
        except ValueError as exc:
            raise ConfigError(f"{each.label}: {exc}") from None
        origins[name] = each.origin
    changed = {section: replace(getattr(config, section), **values) for section, values in sections.items()}
    return replace(config, **changed), origins


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    keys = [key.strip() for key in environ.get(API_KEYS_VARIABLE, "").split(",") if key.strip()]
    knob = knobs_of(Config)["api.keys"]
    return {knob.name: _Given(knob, keys, API_KEYS_VARIABLE, API_KEYS_VARIABLE)} if keys else {}


def _from_flags(overrides: Mapping[str, object]) -> dict[str, _Given]:
    names = flat_names()
    found = {}
    for flat, value in overrides.items():
        label = "--" + flat.replace("_", "-")
        knob = knobs_of(Config)[names[flat]]
        found[knob.name] = _Given(knob, value, label, label)
    return found


def _from_toml(text: str, source: str) -> dict[str, _Given]:
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError as exc:
        raise ConfigError(f"{source} is not TOML: {exc}") from None
    found: dict[str, _Given] = {}
    for knob, value, key in _settings_in(document, source):
        label = f"{source}: {key}"
        if knob.name in found:
            raise ConfigError(f"{label} and {found[knob.name].label} mean the same; keep one of them")
        found[knob.name] = _Given(knob, value, label, source)
    return found


def _settings_in(document: dict[str, Any], source: str) -> Iterator[tuple[Knob, object, str]]:
    """Yield (setting, value, key as written) of a parsed document. Raises ConfigError for an unknown key."""
    known = knobs_of(Config)
    flat = flat_names()
    sections = {knob.section for knob in known.values()}
    for key, value in document.items():
        # `model` and `api` name a table and a setting; what stands there tells which is meant.
        if isinstance(value, dict) and key in sections:
            yield from _settings_of_table(key, value, source)
        elif key in flat:
            yield known[flat[key]], value, key
        elif key in sections:
            raise ConfigError(f"{source}: {key} is a table; write [{key}] and its settings below")
        elif isinstance(value, dict):
            raise ConfigError(f"{source}: unknown table [{key}]; {_nearest(key, sections)}")
        else:
            raise ConfigError(f"{source}: unknown key {key!r}; {_nearest(key, [*flat, *known])}")


def _settings_of_table(table: str, values: dict[str, Any], source: str) -> Iterator[tuple[Knob, object, str]]:
    fields = {knob.field: knob for knob in knobs_of(Config).values() if knob.section == table}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{source}: unknown key {key!r} in [{table}]; {_nearest(key, fields)}")
        yield fields[key], value, fields[key].name


def _nearest(wanted: str, candidates: Iterable[str]) -> str:
    close = difflib.get_close_matches(wanted, candidates, n=1)
    return f"did you mean {close[0]!r}?" if close else "`python -m swarm config` shows what there is"
