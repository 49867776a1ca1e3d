"""Which files make up a model, and which bytes of them are which tensor. Reads no file itself.

The digest is computed from the name, size and SHA-256 of config.json and of every weight file, so a node that
holds a few of the files and knows the rest by hearsay (the hub's listing, a stored manifest) names the model as
one that holds them all.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Annotated, Any

import msgspec

from swarm.errors import ModelError
from swarm.types import LayerSpan

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
CONFIG_NAME = "config.json"
WEIGHT_SUFFIX = ".safetensors"
COMPANIONS = (
    "generation_config.json", "model.safetensors.index.json",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template*", "additional_chat_templates/*.jinja",
    "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
"""What goes with a model's weights wherever they go: patterns of names. Pickles and code never do."""
_COMPANION_SUFFIXES = frozenset(["", ".json", ".jinja", ".txt", ".md", ".model", ".tiktoken"])
MAX_HEADER_BYTES = 100_000_000
"""The safetensors format's own limit."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?\Z")
_MAX_NAME = 200
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|\Z)", re.IGNORECASE)
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_NO_DECODER = re.compile(
    r"(?:^|\.)(?:mtp|vision\w*|visual|audio\w*|image\w*|multi_modal_projector|embed_(?:vision|audio))\."
)
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip


class FileEntry(msgspec.Struct, frozen=True, order=True):
    """One file of a model: its name in the folder (one '/' at most), bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.size < 0 or not _SHA256.match(self.sha256):
            raise ModelError(f"the manifest's entry for {self.name} has no valid size and SHA-256")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: bytes ``start`` up to ``end`` of ``file``, counted from the file's beginning."""

    file: str
    dtype: str
    """In safetensors' words: BF16, F16, F32, U8, …"""
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def octets(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Manifest:
    """Config and weight files of a model, and the tensors of those that are on this disk."""

    files: tuple[FileEntry, ...]
    weight_map: Mapping[str, str]
    """Name of each tensor of the model -> name of the file that holds it."""
    tensors: Mapping[str, TensorInfo] = field(default_factory=lambda: MappingProxyType({}))
    """Tensors whose bytes are on this disk; all of ``weight_map``'s when every file is."""
    described: Mapping[str, TensorInfo] = field(default_factory=lambda: MappingProxyType({}))
    """Further tensors of which only the place is known: their file's header is here, their bytes are not."""

    def layout(self, tensor: str) -> TensorInfo | None:
        """Return where a tensor lies in its file, if that is known."""
        return self.tensors.get(tensor) or self.described.get(tensor)

    @property
    def digest(self) -> str:
        """64 hex digits that name these weights: equal exactly when all names, sizes and SHA-256s are."""
        return digest_of(self.files)

    def files_for(self, span: LayerSpan | None, *, ends: bool) -> frozenset[str]:
        """Return the files that hold the span's layers and, with ``ends``, embedding, norm and head."""
        return frozenset(file for name, file in self.weight_map.items() if wanted(name, span, ends=ends))

    def layer_bytes(self, layer: int) -> int:
        """Return the weight bytes of one decoder layer; raises ModelError when a file's header is not here."""
        return self._bytes(LayerSpan(layer, layer + 1), ends=False)

    def end_bytes(self) -> int:
        """Return the weight bytes of embedding, norm and head; raises ModelError as layer_bytes does."""
        return self._bytes(None, ends=True)

    def _bytes(self, span: LayerSpan | None, *, ends: bool) -> int:
        octets = 0
        for name in self.weight_map:
            if wanted(name, span, ends=ends):
                place = self.layout(name)
                if place is None:
                    raise ModelError(f"{self.weight_map[name]}, which holds {name}, is not on this disk")
                octets += place.octets
        return octets


def digest_of(files: Iterable[FileEntry]) -> str:
    """Return the SHA-256 (hex) over the listing: sorted lines of name, tab, size, tab, SHA-256."""
    listing = "".join(f"{entry.name}\t{entry.size}\t{entry.sha256}\n" for entry in sorted(files))
    return hashlib.sha256(b"swarm-manifest/2\n" + listing.encode()).hexdigest()


def is_weight_file(name: str) -> bool:
    """Say whether a file belongs to what a model's digest names: its config and its safetensors."""
    return is_name(name) and (name == CONFIG_NAME or name.endswith(WEIGHT_SUFFIX))


def is_companion(name: str) -> bool:
    """Say whether a file goes along with the weights: tokenizer, chat template, licence and the like."""
    plain = is_name(name) and PurePosixPath(name).suffix in _COMPANION_SUFFIXES
    return plain and any(fnmatchcase(name, pattern) for pattern in COMPANIONS)


def is_name(text: str) -> bool:
    """Say whether ``text`` may name a model, or a file of one, on every platform."""
    if len(text) > _MAX_NAME or not _NAME.match(text):
        return False
    return not any(_DEVICE.match(part) or part.endswith(".") for part in text.split("/"))


def check_name(name: str) -> str:
    """Return ``name`` if it may name a model or a file of one; raises ModelError otherwise."""
    if not is_name(name):
        raise ModelError(
            f"{name[:80]!r} can't name a model or a file of one: letters, digits, '.', '_' and '-', "
            "at most one '/', no device names of Windows"
        )
    return name


def layer_of(tensor: str) -> int | None:
    """Return the decoder layer a tensor belongs to; None for embedding, norm, head and other towers."""
    if _NO_DECODER.search(tensor):
        return None
    match = _LAYER.search(tensor)
    return int(match[1]) if match else None


def wanted(tensor: str, span: LayerSpan | None, *, ends: bool) -> bool:
    """Say whether computing the span, or with ``ends`` embedding, norm and head, needs the tensor."""
    if _NO_DECODER.search(tensor):
        return False
    layer = layer_of(tensor)
    return ends if layer is None else span is not None and layer in span


# --- the files' own formats ---------------------------------------------------------------------------------


def parse_index(text: bytes) -> dict[str, str]:
    """Read model.safetensors.index.json: tensor name -> file name. Raises ModelError."""
    data = _json_object(text, "model.safetensors.index.json")
    found = data.get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(v, str) for v in found.values()):
        raise ModelError("model.safetensors.index.json has no weight_map")
    for file in set(found.values()):
        check_name(file)
        if not file.endswith(".safetensors"):
            raise ModelError(
                f"model.safetensors.index.json names {file[:80]}, which is not a safetensors file"
            )
    return found


def parse_header(file: str, header: bytes, file_size: int) -> dict[str, TensorInfo]:
    """Read the JSON header of a safetensors file of ``file_size`` bytes; data follows it without holes.

    Raises ModelError when a tensor's range does not fit its shape, or the file is cut short.
    """
    data = _json_object(header, file)
    data.pop("__metadata__", None)
    begin = 8 + len(header)
    tensors = {name: _tensor(file, name, entry, begin) for name, entry in data.items()}
    reached = begin
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != reached:
            raise ModelError(f"{file} is damaged: {name[:80]} does not start where the tensor before it ends")
        reached = tensor.end
    if reached != file_size:
        raise ModelError(f"{file} is damaged or cut short: {file_size} bytes, its header says {reached}")
    return tensors


def _tensor(file: str, name: str, entry: object, begin: int) -> TensorInfo:
    try:
        described = msgspec.convert(entry, _HeaderEntry)
        first, last = described.data_offsets
        fits = math.prod(described.shape) * _BITS[described.dtype] == (last - first) * 8
    except (msgspec.ValidationError, KeyError) as exc:
        raise ModelError(f"{file} is damaged: the header's entry for {name[:80]}: {exc}") from exc
    if not fits or last < first:
        raise ModelError(f"{file} is damaged: the bytes of {name[:80]} do not fit its shape")
    return TensorInfo(file, described.dtype, described.shape, begin + first, begin + last)


def encode_files(files: Iterable[FileEntry], *, revision: str = "") -> bytes:
    """Write the listing of a model's files as it is stored beside them (swarm-manifest.json). Raises ModelError."""
    document = _Stored(format=1, revision=revision, files=tuple(sorted(files)))
    return _of_size(msgspec.json.format(msgspec.json.encode(document), indent=1))


def decode_files(text: bytes) -> tuple[tuple[FileEntry, ...], str]:
    """Read what encode_files wrote: the files and the hub's revision. Raises ModelError."""
    try:
        stored = msgspec.json.decode(_of_size(text), type=_Stored)
    except msgspec.MsgspecError as exc:
        raise ModelError(f"the stored manifest can't be read: {exc}") from exc
    if len({entry.name.lower() for entry in stored.files}) != len(stored.files):
        raise ModelError("the stored manifest names one file twice")
    return stored.files, stored.revision


def _of_size(text: bytes) -> bytes:
    if len(text) > MAX_MANIFEST_BYTES:
        raise ModelError(f"a manifest of {len(text)} bytes is larger than the limit of {MAX_MANIFEST_BYTES}")
    return text


_Size = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _HeaderEntry(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[_Size, ...]
    data_offsets: tuple[_Size, _Size]


class _Stored(msgspec.Struct, frozen=True):
    format: int
    revision: str
    files: tuple[FileEntry, ...]


def _json_object(text: bytes, file: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ModelError(f"{file} is damaged: {exc}") from exc
    if not isinstance(data, dict):
        raise ModelError(f"{file} is damaged: it does not hold a JSON object")
    return data
