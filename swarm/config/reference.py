"""Settings as text: those in effect with their origins, and the page that documents all. Prints nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from swarm.config.knob import Knob, knobs_of
from swarm.config.loading import ALIASES
from swarm.config.settings import Config

_PAGE_HEAD = """\
# Configuration

Generated from `swarm/config/settings.py` by `scripts/make_docs`; a test keeps it true.

`python -m swarm join --config swarm.toml` reads settings from a TOML file. Flags win over the file, the file
wins over the environment. An unknown key is an error. `python -m swarm config` takes the same options as
`join` and prints what is in effect and where each value came from.

Settings with a flag may stand at the top of the file under the flag's name with underscores
(`private_layers = "2:1"`); all may stand in their tables (`[model]`, then `private_layers = "2:1"`).
Names that end in `_seconds` take numbers or text such as `"500ms"`, `"10s"`, `"5m"`; names that end in
`_bytes` take numbers or text such as `"64KiB"`, `"2GiB"`.

From the environment come `SWARM_KEY` (the swarm secret, 64 hex digits), `SWARM_API_KEYS` (comma separated)
and `SWARM_HOME` (the folder that holds `models/`; default: the platform's data folder).
"""


def page() -> str:
    """Return docs/configuration.md."""
    lines = [_PAGE_HEAD]
    for section, knobs in _by_section():
        lines += [f"## [{section}]", "", "| key | flag | default | meaning |", "|---|---|---|---|"]
        lines += [_row(knob) for knob in knobs]
        lines.append("")
    lines += ["## Other names", "", "| name | means |", "|---|---|"]
    lines += [f"| `{alias}` | `{name}` |" for alias, name in ALIASES.items()]
    return "\n".join(lines) + "\n"


def effective(config: Config, origins: Mapping[str, str]) -> str:
    """Return the settings as TOML with their origins as comments; secrets are counted, not shown."""
    lines: list[str] = []
    for section, knobs in _by_section():
        lines.append(f"[{section}]")
        for knob in knobs:
            value = getattr(getattr(config, section), knob.field)
            lines.append(f"{_assignment(knob, value)}  # {origins[knob.name]}")
        lines.append("")
    return "\n".join(lines)


def as_values(config: Config, origins: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the same for programs: by section and key, ``value`` and ``from``; secrets are counted, not shown."""
    shown: dict[str, dict[str, Any]] = {}
    for section, knobs in _by_section():
        for knob in knobs:
            value = getattr(getattr(config, section), knob.field)
            told = f"{len(value)} set, not shown" if knob.declared.secret and value else _plain(value)
            shown.setdefault(section, {})[knob.field] = {"value": told, "from": origins[knob.name]}
    return shown


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _by_section() -> Iterator[tuple[str, list[Knob]]]:
    sections: dict[str, list[Knob]] = {}
    for knob in knobs_of(Config).values():
        sections.setdefault(knob.section, []).append(knob)
    yield from sections.items()


def _row(knob: Knob) -> str:
    flag = f"`--{knob.declared.flag.replace('_', '-')}`" if knob.declared.flag else ""
    choices = f" One of {', '.join(knob.declared.choices)}." if knob.declared.choices else ""
    default = "" if knob.default is None else f"`{_toml(knob.default)}`"
    return f"| `{knob.field}` | {flag} | {default} | {knob.declared.doc}{choices} |"


def _assignment(knob: Knob, value: Any) -> str:
    if value is None:
        return f"# {knob.field} is not set"
    if knob.declared.secret and value:
        return f"# {knob.field}: {len(value)} set, not shown"
    return f"{knob.field} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    # JSON's numbers, booleans and escaped strings are TOML's too.
    return json.dumps(_plain(value), ensure_ascii=False)
