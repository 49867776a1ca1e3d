"""Rows of hidden states between bytes and tensors. Knows nothing of sequences or models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from swarm.engine.jobs import Payload
from swarm.errors import BadTensorError
from swarm.types import DTYPE_BYTES

_TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def check_payload(payload: Payload, rows: int, hidden_size: int, dtype: str) -> None:
    """Raise BadTensorError unless ``payload`` holds exactly [rows, hidden_size] of ``dtype``."""
    itemsize = DTYPE_BYTES.get(dtype)
    if itemsize is None:
        raise BadTensorError(f"hidden states of dtype {dtype[:20]!r} are not supported", received=True)
    wanted = rows * hidden_size * itemsize
    size = payload.nbytes if isinstance(payload, memoryview) else len(payload)
    if rows < 1 or size != wanted:
        text = f"{rows} rows of {hidden_size} {dtype} are {wanted} bytes, not {size}"
        raise BadTensorError(text, received=True)


def pack_rows(
    parts: Sequence[tuple[Payload, int, str]], hidden_size: int, dtype: torch.dtype, device: str
) -> torch.Tensor:
    """Return [sum of rows, hidden_size] of ``dtype`` out of checked (payload, rows, dtype) parts, copied once."""
    packed = torch.empty(sum(rows for _, rows, _ in parts), hidden_size, dtype=dtype)
    flat = packed.view(torch.uint8).numpy().reshape(-1)
    row_bytes = hidden_size * packed.element_size()
    start = 0
    for payload, rows, name in parts:
        source = np.frombuffer(payload, dtype=np.uint8)
        if _TORCH[name] == dtype:
            flat[start * row_bytes : (start + rows) * row_bytes] = source
        else:
            # A copy first: a payload may start at an odd address and belong to someone else.
            own = torch.from_numpy(source.copy()).view(_TORCH[name])
            packed[start : start + rows] = own.view(rows, hidden_size).to(dtype)
        start += rows
    return packed if device == "cpu" else packed.to(device)


def all_finite(payload: Payload, dtype: str) -> bool:
    """Whether checked bytes of ``dtype`` hold neither NaN nor infinity."""
    own = torch.from_numpy(np.frombuffer(payload, dtype=np.uint8).copy()).view(_TORCH[dtype])
    return bool(torch.isfinite(own).all())


def row_bytes(rows: torch.Tensor, dtype: str) -> bytes:
    """Return [n, hidden] as bytes of ``dtype``, row by row."""
    host = rows.to(device="cpu", dtype=_TORCH[dtype]).contiguous()
    return host.view(torch.uint8).numpy().tobytes()
