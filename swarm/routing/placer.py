"""One node's way to its span and from one span to another, as a state machine. Loads nothing, reads no clock.

A span is claimed before it is loaded: the claim is told to all, settles for a moment, and gives way to claims of
nodes with smaller ids or to spans already being loaded. A move loads the new span beside the old one where both fit,
and retires the old one only when that opens no hole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from swarm.routing.placement import Machine, Move, choose_move, choose_span
from swarm.routing.view import SwarmView
from swarm.types import LayerSpan, ModelId, NodeId, missing_spans

SETTLE_SECONDS = (0.6, 1.0)
"""How long a claim stands before it is acted on: gossip reaches everybody in a fraction of that."""

HOLE_SECONDS = (1.0, 3.0)
"""How long layers have to be missing before a running node moves to them: a restart is often quicker."""

GAIN_SECONDS = (30.0, 60.0)
"""How long a gain in speed has to last before a running node moves for it."""

PAUSE_SECONDS = 60.0
"""After a move for speed a node stays where it is for so long."""

RETRY_SECONDS = 10.0
"""After a load that failed."""


@dataclass(frozen=True, slots=True)
class Intend:
    """Tell all what this node means to hold; None: nothing more."""

    span: LayerSpan | None
    firm: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """Load ``span``; then call ``loaded`` or ``failed``."""

    span: LayerSpan


@dataclass(frozen=True, slots=True)
class Retire:
    """Move the sessions of ``span`` elsewhere and drop it; then call ``retired``."""

    span: LayerSpan


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the person who runs this node."""

    text: str


Action: TypeAlias = Intend | Load | Retire | Say
Random: TypeAlias = Callable[[float, float], float]
"""``uniform`` of a generator."""


class Placer:
    """What one node that may choose its span for itself holds of one model."""

    def __init__(self, node: NodeId, model: ModelId, uniform: Random) -> None:
        self._node = node
        self._model = model
        self._uniform = uniform
        self._actions: list[Action] = []
        self.held: LayerSpan | None = None
        self._old: LayerSpan | None = None
        self._claimed: LayerSpan | None = None
        self._act_at = 0.0
        self._busy = False
        self._wanted: bool | None = None
        """Whether the move that is wished for fills a hole; None: none is."""
        self._filling = True
        self._not_before = float("-inf")
        self._left_out = False
        self._seen: tuple[object, Move | None] | None = None

    @property
    def claimed(self) -> LayerSpan | None:
        """What this node means to hold next."""
        return self._claimed

    @property
    def left_out(self) -> bool:
        """Whether this node holds nothing because that is better for the swarm, or nothing fits."""
        return self.held is None and self._left_out

    @property
    def undecided(self) -> bool:
        """Whether this node holds nothing yet but is about to."""
        return self.held is None and not self._left_out

    def actions(self) -> list[Action]:
        """Return what is to be done, in order, and forget it."""
        actions, self._actions = self._actions, []
        return actions

    # --- inputs ---

    def adopt(self, spans: Sequence[LayerSpan]) -> None:
        """Begin with what this node holds already: stay on the longest, and leave another once that opens no hole."""
        longest_first = sorted(spans, key=lambda span: (-len(span), span))
        self.held = longest_first[0] if longest_first else None
        self._old = longest_first[1] if len(longest_first) > 1 else None

    def tick(self, view: SwarmView, machine: Machine, fits_beside: bool, now: float) -> None:
        """Look again; call at every change of the view and about once a second.

        ``fits_beside`` says whether the claimed span fits into memory beside the one that is held.
        """
        if self._busy:
            return
        if self._old is not None:
            self._finish_move(view, machine)
        elif self._claimed is not None:
            if now >= self._act_at:
                self._act(view, machine, fits_beside, now)
        elif now >= self._not_before:
            if self.held is None:
                self._look_for_span(view, machine, now)
            else:
                self._look_for_move(view, machine, now)

    def loaded(self) -> None:
        self._busy = False
        self._old, self.held, self._claimed = self.held, self._claimed, None
        if self._old is None:
            self._actions.append(Intend(None))

    def failed(self, now: float) -> None:
        """The claimed span could not be loaded; what was held still is."""
        self._busy = False
        self._withdraw()
        self._not_before = now + RETRY_SECONDS

    def retired(self, now: float) -> None:
        self._busy = False
        if self._claimed is not None:  # dropped first, as both did not fit
            self.held = None
            self._load()
            return
        self._old = None
        self._actions.append(Intend(None))
        self._not_before = now + PAUSE_SECONDS * (not self._filling)

    # --- inside ---

    def _look_for_span(self, view: SwarmView, machine: Machine, now: float) -> None:
        choice = choose_span(view, self._model, machine, view.intentions)
        if choice.span is None and not self._left_out:
            self._actions.append(Say(f"This node stays a member without layers: {choice.reason}."))
        self._left_out = choice.span is None
        if choice.span is not None:
            self._claim(choice.span, now + (self._uniform(*SETTLE_SECONDS) if view.others else 0.0))
            if not view.others:
                self._act(view, machine, False, now)

    def _look_for_move(self, view: SwarmView, machine: Machine, now: float) -> None:
        if self.held is None:
            return
        move = self._best_move(view, machine, self.held)
        wanted = None if move is None else move.fills
        if wanted is None or move is None:
            self._wanted = None
        elif wanted is not self._wanted:
            self._wanted = wanted
            self._act_at = now + self._uniform(*(HOLE_SECONDS if wanted else GAIN_SECONDS))
        elif now >= self._act_at:
            self._wanted = None
            self._filling = wanted
            self._claim(move.span, now + self._uniform(*SETTLE_SECONDS))

    def _best_move(self, view: SwarmView, machine: Machine, held: LayerSpan) -> Move | None:
        """Ask again only when something that counts has changed: it is asked several times a second."""
        seen = (
            tuple(
                (span.node, span.span, span.seconds_per_layer)
                for span in view.spans
                if span.model == self._model
            ),
            view.intentions,
            tuple(sorted(view.doors.items())),
            machine,
            held,
        )
        if self._seen is None or self._seen[0] != seen:
            self._seen = (seen, choose_move(view, self._model, machine, held, view.intentions))
        return self._seen[1]

    def _act(self, view: SwarmView, machine: Machine, fits_beside: bool, now: float) -> None:
        """The claim has settled: give way, or go."""
        stronger = [one for one in view.intentions if one.firm or one.node < self._node]
        if self.held is None:
            choice = choose_span(view, self._model, machine, stronger)
            wanted, why = choice.span, choice.reason
        else:
            move = choose_move(view, self._model, machine, self.held, stronger)
            wanted, why = (move.span, move.reason) if move is not None else (None, "")
        if wanted is None:
            self._withdraw()
        elif wanted != self._claimed:
            self._claim(wanted, now + self._uniform(*SETTLE_SECONDS))
        elif self.held is None:
            self._actions.append(Say(f"Taking {wanted.described()}: {why}."))
            self._load()
        else:
            self._actions.append(Say(f"Moving from {self.held.described()} to {wanted.described()}: {why}."))
            if fits_beside:
                self._load()
            else:
                self._busy = True
                self._actions += [Intend(wanted, firm=True), Retire(self.held)]

    def _finish_move(self, view: SwarmView, machine: Machine) -> None:
        """Retire the old span, unless its layers have come to be held by nobody else in the meantime."""
        old, held = self._old, self.held
        if old is None or held is None:
            return
        # Of two that could retire the same layers the one with the smaller id goes first: what it still intends
        # tells the other not to rely on it.
        leaving = {one.node for one in view.intentions if one.node < self._node}
        others = [
            span.span
            for span in view.spans
            if span.model == self._model and span.node != self._node and span.node not in leaving
        ]
        layers = len(machine.reach)
        if missing_spans(layers, [*others, held]) == missing_spans(layers, [*others, held, old]):
            self._busy = True
            self._actions.append(Retire(old))

    def _claim(self, span: LayerSpan, act_at: float) -> None:
        self._claimed, self._act_at = span, act_at
        self._actions.append(Intend(span))

    def _withdraw(self) -> None:
        self._claimed = None
        self._actions.append(Intend(None))

    def _load(self) -> None:
        if self._claimed is not None:
            self._busy = True
            self._actions += [Intend(self._claimed, firm=True), Load(self._claimed)]
