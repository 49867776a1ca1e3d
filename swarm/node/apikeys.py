"""The API keys of this node's front door as its user sees and changes them. Shows no key, only its id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swarm.config import ApiKey
from swarm.errors import ConfigError

Key = str | ApiKey
ID_DIGITS = 12
LEAST_ID_DIGITS = 6
MOST_CHARACTERS = 512


def keys_in(file: str) -> tuple[str, ...]:
    """Return the keys of a file with one a line; none without a file. Raises ConfigError."""
    if not file:
        return ()
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the API keys can't be read from {file}: {exc}") from exc
    keys = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))
    if not keys:
        raise ConfigError(f"{file} holds no API key: write one a line")
    return keys


def key_id(key: Key) -> str:
    """Return the beginning of the key's SHA-256 in hex: enough to name it, useless to guess it by."""
    digest = key.sha256 if isinstance(key, ApiKey) else hashlib.sha256(key.encode()).digest()
    return digest.hex()[:ID_DIGITS]


def listed(keys: Sequence[Key]) -> list[dict[str, Any]]:
    """Return what may be shown of keys."""
    return [{"id": key_id(key), "name": key.name if isinstance(key, ApiKey) else ""} for key in keys]


def changed(keys: Sequence[Key], add: Sequence[str], remove: Sequence[str]) -> tuple[Key, ...]:
    """Return ``keys`` with those of ``add`` once and without those that ``remove`` names.

    A key is named by its id (or its beginning), its name in the settings, or the key itself. Raises ConfigError for a
    key that no client could send, and for a name that means none or several.
    """
    kept = list(keys)
    for name in remove:
        meant = [key for key in kept if _is_named(key, name)]
        if len({key_id(key) for key in meant}) != 1:
            which = "none" if not meant else "several"
            raise ConfigError(
                f"{which} of the API keys has that id or name; list them to see which there are"
            )
        kept = [key for key in kept if key not in meant]
    for key in add:
        _check(key)
        if key_id(key) not in map(key_id, kept):
            kept.append(key)
    return tuple(kept)


def _is_named(key: Key, name: str) -> bool:
    if isinstance(key, ApiKey) and key.name == name:
        return True
    by_id = len(name) >= LEAST_ID_DIGITS and key_id(key).startswith(name.lower())
    return by_id or key_id(name) == key_id(key)


def _check(key: str) -> None:
    """Raise ConfigError, without the key in it, for what can't stand behind ``Authorization: Bearer``."""
    if not key or len(key) > MOST_CHARACTERS or not all("!" <= letter <= "~" for letter in key):
        raise ConfigError(f"an API key is 1 to {MOST_CHARACTERS} ASCII characters without spaces")
