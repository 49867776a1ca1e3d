"""How long a loaded part of a model takes, measured on the compute thread."""

from __future__ import annotations

import statistics
import time

import torch

from swarm.engine.attention import Segment
from swarm.engine.ends import Ends
from swarm.engine.sampling import best_of
from swarm.engine.stage import Stage

_RUNS = 5
_ROWS = (64, 32, 16)
_ROWS_PER_TOKEN = 6
"""So many further rows are taken to need as long as one token, to know beforehand what measuring them will take."""
_LONGEST_SECONDS = 0.5


def stage_seconds(stage: Stage) -> tuple[float, float]:
    """Return the seconds of one decode token through the stage, the median, and of each further row; 0: not measured.

    The further rows' are the best of two passes of many: they take long, and what else runs only makes them longer.
    Where even few rows would take a machine's breath, they are not measured.
    """
    one = statistics.median(_passes(stage, 1, _RUNS + 2)[2:])
    for rows in _ROWS:
        if one * (1 + rows / _ROWS_PER_TOKEN) <= _LONGEST_SECONDS:
            return one, max(min(_passes(stage, rows, 2)) - one, 0.0) / (rows - 1)
    return one, 0.0


def ends_seconds(ends: Ends) -> float:
    """Return the median seconds from a hidden row to a greedy token."""
    hidden = torch.zeros(1, ends.hidden_size, dtype=ends.dtype, device=ends.device)
    seconds = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        best_of(ends.logits(hidden))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _passes(stage: Stage, rows: int, runs: int) -> list[float]:
    """Return the seconds of each of ``runs`` passes of ``rows`` rows, one behind the other in one sequence."""
    hidden = torch.zeros(rows, stage.width_into(stage.span), dtype=stage.dtype, device=stage.device)
    kv = stage.new_kv(stage.span, rows * runs)
    seconds = []
    for run in range(runs):
        began = time.perf_counter()
        out = stage.forward(
            stage.span, hidden, [Segment(0, rows, run * rows, kv.append_views(rows), kv.tokens)]
        )
        out[-1, 0].item()  # a GPU is done only when its result is here
        seconds.append(time.perf_counter() - began)
    return seconds
