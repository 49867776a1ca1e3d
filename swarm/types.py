"""Names and small values that every part shares. Knows nothing of tensors, sockets or time."""

from __future__ import annotations

import re
from typing import NewType

import msgspec

NodeId = NewType("NodeId", str)
"""32 lower-case base32 characters: the first 20 bytes of SHA-256("swarm-node-id/1" || public key)."""

BootId = NewType("BootId", bytes)
"""8 random bytes drawn at each process start: a new one tells peers that the node's KV caches are gone."""

SessionId = NewType("SessionId", bytes)
"""16 bytes from the operating system's generator, drawn by the origin; unique together with its NodeId."""

SHORT_ID_CHARACTERS = 8
DTYPES = ("bfloat16", "float16", "float32")
QUANTIZATIONS = ("none", "int8", "int4")
"""How weights may be held: in the dtype that is computed in, or in that many bits."""
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?\Z")
_MAX_NAME = 200
_MAX_LAYERS = 4096


def short(node: NodeId) -> str:
    """Return the first characters of a node id, enough for people to tell nodes apart."""
    return node[:SHORT_ID_CHARACTERS]


class LayerSpan(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Decoder layers ``start`` up to but not including ``end``; never empty."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= _MAX_LAYERS:
            raise ValueError(
                f"layers {self.start}:{self.end} are not a span: 0 <= start < end <= {_MAX_LAYERS}"
            )

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self.start <= layer < self.end

    def covers(self, other: LayerSpan) -> bool:
        return self.start <= other.start and other.end <= self.end

    def described(self) -> str:
        """Return what messages call the span, written as ``--layers`` takes it: ``layers 0:15``."""
        return f"layers {self}"

    @classmethod
    def parse(cls, text: str) -> LayerSpan:
        """Read ``A:B`` (half open). Raises ValueError that says what a span looks like."""
        match = re.fullmatch(r"(\d+):(\d+)", text.strip())
        if match is None:
            raise ValueError(
                f"{text!r} is not a span of layers; write it as A:B, for example 0:15 for the first 15"
            )
        return cls(int(match[1]), int(match[2]))


class ModelId(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A model's public name and the digest of its weights: equal names with other weights never mix."""

    name: str
    digest: str

    def __post_init__(self) -> None:
        if len(self.name) > _MAX_NAME or not _NAME.match(self.name):
            raise ValueError(
                f"{self.name[:80]!r} is not a model name (letters, digits, '.', '_', '-' and one '/')"
            )
        if not _DIGEST.match(self.digest):
            raise ValueError("a model digest is 64 lower-case hex digits")

    def __str__(self) -> str:
        return f"{self.name}@{self.digest[:12]}"


class Address(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Where a node listens: a host name or IP literal, and a TCP port."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not self.host or len(self.host) > 255 or not 0 <= self.port <= 65535:
            raise ValueError(f"{self.host[:80]!r} port {self.port} is not an address; ports are 0-65535")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, default_host: str | None = None) -> Address:
        """Read ``HOST:PORT``, ``[IPV6]:PORT`` or, with ``default_host``, a bare ``PORT``."""
        text = text.strip()
        if default_host is not None and text.isdecimal():
            return cls(default_host, int(text))
        match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\s]+)):(\d{1,5})", text)
        if match is None:
            wanted = "HOST:PORT" if default_host is None else "PORT or HOST:PORT"
            raise ValueError(f"{text!r} is not an address; write {wanted}, for example 192.168.1.20:7000")
        return cls(match[1] or match[2], int(match[3]))


def missing_spans(layers: int, held: list[LayerSpan] | tuple[LayerSpan, ...]) -> tuple[LayerSpan, ...]:
    """Return the holes that ``held`` leaves in layers 0..layers-1, in order."""
    holes: list[LayerSpan] = []
    reached = 0
    for span in sorted(held):
        if span.start >= layers:
            break
        if span.start > reached:
            holes.append(LayerSpan(reached, span.start))
        reached = max(reached, span.end)
    if reached < layers:
        holes.append(LayerSpan(reached, layers))
    return tuple(holes)
