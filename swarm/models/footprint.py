"""How many bytes of memory each layer of a model takes, and its ends. Reads no file and loads nothing.

Sizes come from the safetensors headers in the manifest, converted to the dtype that is computed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swarm.models.manifest import Manifest, TensorInfo, layer_of, wanted
from swarm.models.quantization import SCALES, held_tensor_bytes
from swarm.models.spec import ModelSpec
from swarm.types import DTYPE_BYTES, LayerSpan

WINDOW_SLACK = 512
"""Tokens that a window layer keeps beyond its window: the largest chunk or rejected draft that can be undone."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one model in one dtype. ``layer_bytes`` are weights, ``kv_bytes`` keys and values of one token."""

    layer_bytes: tuple[int, ...]
    kv_bytes: tuple[int, ...]
    windows: tuple[int | None, ...]
    """Tokens a layer looks back at; None: all."""
    ends_bytes: int
    """The head as it is computed with, and the embedding's pages of the file."""
    context_tokens: int
    dtype: str

    @property
    def layers(self) -> int:
        return len(self.layer_bytes)

    def weights(self, span: LayerSpan) -> int:
        return sum(self.layer_bytes[span.start : span.end])

    def kv(self, span: LayerSpan, tokens: int) -> int:
        """Return the bytes of a sequence of ``tokens`` in the layers of ``span``."""
        held = slice(span.start, span.end)
        return sum(
            size * window_slots(window, tokens)
            for size, window in zip(self.kv_bytes[held], self.windows[held], strict=True)
        )


def window_slots(window: int | None, tokens: int, slack: int = WINDOW_SLACK) -> int:
    """Return the slots a layer needs for ``tokens``: a window layer moves its end to the front when full."""
    return tokens if window is None else min(tokens, 2 * (window + slack))


def footprint_of(spec: ModelSpec, manifest: Manifest, dtype: str, quantize: str = "none") -> Footprint:
    """Return what the model takes when it is computed in ``dtype``, its layers held in fewer bits with ``quantize``.

    Where files are not on this disk, and so their headers unknown, their bytes are divided evenly among their tensors.
    """
    layers = [0] * spec.layers
    ends = 0
    guessed = _mean_sizes(manifest)
    itemsize = DTYPE_BYTES[dtype]
    for name, file in manifest.weight_map.items():
        if name.endswith(SCALES):
            continue  # multiplied into its weight as that is read
        tensor = manifest.layout(name)
        size = guessed[file] if tensor is None else _held(name, tensor, itemsize, quantize)
        layer = layer_of(name)
        if layer is not None and layer < spec.layers:
            layers[layer] += size
        elif layer is None and wanted(name, None, ends=True):
            ends += size
    if spec.tied_embeddings:
        ends += spec.vocab_size * spec.hidden_size * itemsize
    kinds = spec.layer_types
    return Footprint(
        layer_bytes=tuple(layers),
        kv_bytes=tuple(numbers * itemsize for numbers in spec.kv_numbers),
        windows=tuple(spec.sliding_window if kind == "sliding_attention" else None for kind in kinds),
        ends_bytes=ends,
        context_tokens=spec.context_tokens,
        dtype=dtype,
    )


def _held(name: str, tensor: TensorInfo, itemsize: int, quantize: str) -> int:
    """Return a tensor's bytes once it is converted; packed codes stay what they are in the file."""
    converted = tensor.dtype in ("BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2")
    return held_tensor_bytes(name, tensor.shape, itemsize, quantize) if converted else tensor.octets


def _mean_sizes(manifest: Manifest) -> dict[str, int]:
    """Return, for each file, the mean bytes of its tensors."""
    counts: dict[str, int] = dict.fromkeys(_names(manifest), 0)
    for file in manifest.weight_map.values():
        counts[file] += 1
    sizes = {entry.name: entry.size for entry in manifest.files}
    return {file: sizes.get(file, 0) // max(count, 1) for file, count in counts.items()}


def _names(manifest: Manifest) -> Iterable[str]:
    return set(manifest.weight_map.values())
