"""How a setting is declared and looked up. Knows no particular setting."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, get_type_hints


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is known of a setting besides its type and default."""

    doc: str
    """The sentence that docs/configuration.md and ``--help`` print."""
    flag: str = ""
    """Its name outside its table: a key at the top of the TOML file and, with dashes, a flag of ``join``."""
    secret: bool = False
    """Never shown: its converter must not quote what was given."""
    host: str | None = None
    """The host of an address that is given as a bare port."""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting: where it stands, the type it has, its default and its declaration."""

    section: str
    field: str
    kind: Any
    default: Any
    declared: Declaration

    @property
    def name(self) -> str:
        return f"{self.section}.{self.field}"


def knob(default: Any, doc: str, **declared: Any) -> Any:
    """Declare a field: its default, its sentence and what else ``Declaration`` has."""
    return field(default=default, metadata={"declared": Declaration(doc, **declared)})


@cache
def knobs_of(root: type) -> dict[str, Knob]:
    """Return the settings in the sections of a dataclass by their names, in the order of the source."""
    found = {}
    for section, sectioned in get_type_hints(root).items():
        kinds = get_type_hints(sectioned)
        for each in fields(sectioned):
            declared = each.metadata["declared"]
            found[f"{section}.{each.name}"] = Knob(
                section, each.name, kinds[each.name], each.default, declared
            )
    return found
