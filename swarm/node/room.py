"""How one node's memory is divided among the models that it holds layers or ends of. Loads nothing, waits for nothing.

A model counts with what it takes at least (weights, ends, KV for one long answer); what all of them leave is one KV
cache, and second copies of weights. A span counts from its claim on, so that two models never count on the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from swarm.models.footprint import Footprint
from swarm.models.memory import (
    Division,
    Held,
    Memory,
    Wish,
    check_fits,
    divide,
    needed_bytes,
    portions,
    reach,
    taken_bytes,
)
from swarm.types import LayerSpan, ModelId


class Room:
    """Owns who has which part of the memory. ``limit`` is told the bytes of KV cache and of second copies."""

    def __init__(self, memory: Memory, limit: Callable[[int, int], None]) -> None:
        self._memory = memory
        self._limit = limit
        self._sizes: dict[ModelId, Footprint] = {}
        self._claimed: dict[ModelId, list[LayerSpan]] = {}
        """What is loaded or being loaded of each model."""
        self._intended: dict[ModelId, LayerSpan] = {}
        self._ends: set[ModelId] = set()
        """Models whose ends are loaded or being loaded."""
        self._portions: dict[ModelId, int] = {}
        """What each of several models is to have, until what it holds first is decided and loaded."""
        self._reaches: dict[ModelId, tuple[Memory, tuple[LayerSpan, ...], tuple[int, ...]]] = {}
        self.division = divide(memory, ())

    @property
    def memory(self) -> Memory:
        return self._memory

    # --- what is known ---

    def know(self, model: ModelId, sizes: Footprint) -> None:
        """Learn how large a model is, before anything else is said of it."""
        self._sizes[model] = sizes

    def door_opened(self) -> None:
        """From now on the ends of models that are held count: a front door loads them with the first request."""
        if not self._memory.door:
            self._memory = replace(self._memory, door=True)
            self.divide()

    # --- questions ---

    def needs_ends(self, model: ModelId) -> bool:
        held = self._claimed.get(model) or model in self._portions or model in self._intended
        return model in self._ends or (self._memory.door and bool(held))

    def memory_for(self, model: ModelId) -> Memory:
        """Return the memory as one model has it: what others take, or are still to get, is theirs."""
        others = sum(
            max(taken_bytes(self._held(other)), self._portions.get(other, 0))
            for other in self._sizes
            if other != model
        )
        door = self._memory.door or model in self._ends
        return replace(self._memory, door=door, others_bytes=others)

    def fits(self, model: ModelId, spans: Sequence[LayerSpan]) -> bool:
        """Whether ``spans`` of a model fit together, beside what is held of others."""
        memory = self.memory_for(model)
        return needed_bytes(memory, self._sizes[model], spans) <= memory.total_bytes

    def check(self, model: ModelId, spans: Sequence[LayerSpan]) -> None:
        """Raise DoesNotFitError with the numbers unless ``fits``."""
        check_fits(self.memory_for(model), self._sizes[model], model.name, spans)

    def check_ends(self, model: ModelId) -> None:
        """Raise DoesNotFitError unless the model's ends fit beside all that is held."""
        if model not in self._ends:
            memory = replace(self.memory_for(model), door=True)
            spans = self._claimed.get(model, [])
            check_fits(memory, self._sizes[model], model.name, spans, ends_only=True)

    def reach(self, model: ModelId, beside: tuple[LayerSpan, ...]) -> tuple[int, ...]:
        """Return where the longest span from each layer ends that fits beside these spans of the same model."""
        memory = self.memory_for(model)
        known = self._reaches.get(model)
        if known is None or known[:2] != (memory, beside):
            known = self._reaches[model] = (memory, beside, reach(memory, self._sizes[model], beside))
        return known[2]

    # --- what changes ---

    def give_portions(self, wishes: Mapping[ModelId, Wish]) -> Mapping[ModelId, int]:
        """Divide the memory among several models before anything is loaded; return the bytes of each."""
        parts = portions(self._memory, list(wishes.values()))
        self._portions = dict(zip(wishes, parts, strict=True))
        return self._portions

    def settled(self, model: ModelId) -> None:
        """What the model holds first is decided and loaded: what it leaves of its portion is everybody's."""
        self._portions.pop(model, None)

    def intend(self, model: ModelId, span: LayerSpan | None) -> None:
        """A span is about to be loaded: nobody else may count on its memory. None: none is."""
        if span is None:
            self._intended.pop(model, None)
        else:
            self._intended[model] = span

    def claim(self, model: ModelId, span: LayerSpan) -> None:
        """A span is being loaded. Raises DoesNotFitError with the numbers."""
        claimed = self._claimed.setdefault(model, [])
        self.check(model, [*claimed, span])
        claimed.append(span)
        self.divide()

    def release(self, model: ModelId, span: LayerSpan) -> None:
        self._claimed[model].remove(span)
        self.divide()

    def claim_ends(self, model: ModelId) -> None:
        """A model's ends are being loaded. Raises DoesNotFitError with the numbers."""
        self.check_ends(model)
        self._ends.add(model)
        self.divide()

    def release_ends(self, model: ModelId) -> None:
        self._ends.discard(model)
        self.divide()

    def divide(self) -> Division:
        """Set what KV cache and second copies may use with what is claimed now."""
        held = {model: self._held(model) for model in self._sizes}
        to_come = sum(max(0, part - taken_bytes(held[model])) for model, part in self._portions.items())
        # There is no second form of weights in float32.
        single = all(sizes.dtype == "float32" for sizes in self._sizes.values())
        copies = 0 if single else self._memory.second_copy_bytes
        memory = replace(self._memory, others_bytes=to_come, second_copy_bytes=copies)
        self.division = divide(memory, held.values())
        self._limit(self.division.kv_bytes, self.division.second_copy_bytes)
        return self.division

    def _held(self, model: ModelId) -> Held:
        spans = list(self._claimed.get(model, ()))
        intended = self._intended.get(model)
        if intended is not None and intended not in spans:
            spans.append(intended)
        return Held(self._sizes[model], tuple(spans), self.needs_ends(model))
