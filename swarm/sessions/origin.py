"""One answer as its origin drives it, a pure state machine. Sends, finds and samples nothing itself.

The list of accepted token ids is the only truth: every fault raises the epoch and asks for a path, whose hops get what
they lack of the KV from the hop before them or from that list (docs/protocol.md, "Recovery"). Inputs are method calls
with ``now`` (seconds of a monotonic clock); outputs are the values of sessions/effects.py, drained in order by
``effects()``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto

from swarm.config import EngineSettings, SessionSettings
from swarm.errors import DeadlineError, PeerError, StepTimeoutError, SwarmError
from swarm.protocol.messages import Busy, Filled, HopTime, Opened, Output, Refused
from swarm.sessions.answer import AnswerTokens
from swarm.sessions.drafts import Drafter
from swarm.sessions.effects import (
    ChosenPath,
    Effect,
    Emit,
    Fail,
    Finish,
    Ready,
    Sample,
)
from swarm.sessions.leg import Leg
from swarm.sessions.mover import Mover
from swarm.sessions.prefix import PrefixNames
from swarm.sessions.refusals import verdict
from swarm.sessions.request import Request
from swarm.sessions.scoring import PromptScoring
from swarm.sessions.slow import SlowHops
from swarm.sessions.stepper import Stepper
from swarm.sessions.ways import Ways
from swarm.types import NodeId

RETRY_SECONDS = 0.25


class State(Enum):
    FINDING = auto()
    OPENING = auto()
    FILLING = auto()
    """Hops that lack KV get it."""
    RUNNING = auto()
    WAITING = auto()
    """For room or for a path; asks again at ``_retry_at`` or when the view changes."""
    ENDED = auto()


ON_A_PATH = (State.OPENING, State.FILLING, State.RUNNING)


class OriginSession:
    """Drives one answer from the first path to the last token, over as many paths as that takes."""

    def __init__(
        self,
        request: Request,
        settings: SessionSettings,
        engine: EngineSettings,
        now: float,
        names: PrefixNames | None = None,
    ) -> None:
        """``names`` name the blocks of prompt and answer; without them no prefix is reused."""
        self.request = request
        self.epoch = 0
        self.last_path: ChosenPath | None = None
        self.recoveries = 0
        self.cached_tokens = 0
        self.dropped: dict[str, int] = {}
        self._settings = settings
        self._answer = AnswerTokens(request, names, settings.draft_tokens)
        self._ways = Ways(request, settings, engine, self._answer)
        self._effects = self._ways.effects
        self._search = self._ways.search
        self._mover = Mover(self._ways)
        self._stepper = Stepper(self._answer, self._effects, engine, request.hidden_size)
        self._slow = SlowHops()
        self._state = State.FINDING
        self._ready = False
        self._leg: Leg | None = None
        self._retry_at = 0.0
        self._orphaned_at: float | None = None
        self._position = 0
        self._sampling = False
        self._find(now)

    # --- what the driver reads ---

    @property
    def accepted(self) -> list[int]:
        return self._answer.accepted

    @property
    def times(self) -> tuple[HopTime, ...]:
        return self._stepper.times

    @property
    def drafter(self) -> Drafter:
        return self._answer.drafter

    @property
    def scoring(self) -> PromptScoring | None:
        return self._answer.scoring

    def effects(self) -> list[Effect]:
        # The ways and the legs add to the same list.
        drained = self._effects[:]
        self._effects.clear()
        return drained

    @property
    def ended(self) -> bool:
        return self._state is State.ENDED

    @property
    def starving(self) -> bool:
        """Whether an answer that has begun waits for room: newcomers must not take what comes free."""
        return self._ready and self._state is State.WAITING and self._search.waits_for_room

    @property
    def path(self) -> ChosenPath | None:
        return self._leg.path if self._leg is not None else None

    @property
    def hop_nodes(self) -> frozenset[NodeId]:
        """Nodes that may hold KV of this answer."""
        return self._ways.hops.nodes

    @property
    def moves(self) -> int:
        """How often hops were left that still worked."""
        return self._mover.moves

    def wakeup(self) -> float | None:
        """Return when ``tick`` is due, or None when the session has ended."""
        if self._state is State.ENDED:
            return None
        times = [self.request.deadline]
        if self._state is State.WAITING:
            times.append(self._retry_at)
        legs = [leg.deadline() for leg in (self._leg, self._mover.leg) if leg is not None]
        return min(*times, *(time for time in legs if time is not None), self.request.deadline)

    # --- path and admission ---

    def path_found(self, path: ChosenPath, now: float) -> None:
        if self._state is State.FINDING:
            self._orphaned_at = None
            self._open(path, now, self._settings.open_seconds)

    def _open(self, path: ChosenPath, now: float, patience: float) -> None:
        """Take a path: hops that hold KV keep what they have, those that are on it no more are released."""
        self._mover.dissolve()
        self._forget_embeddings()
        leg = self._ways.new_leg(path)
        self._ways.release_all_but(leg)
        self._ways.ask_to_open(leg, range(len(path.hops)), now, patience)
        self._take(leg)

    def _take(self, leg: Leg) -> None:
        self._leg = leg
        self.epoch = leg.epoch
        self.last_path = leg.path
        self._slow = SlowHops(leg.path.compute_seconds)
        self._state = State.OPENING

    def path_missing(self, error: SwarmError, now: float) -> None:
        """No path avoids what failed: wait for room or for a node, or give up where neither may come."""
        if self._state is not State.FINDING:
            return
        if self._mover.leaving:
            # Better a hop that will leave than none.
            self._mover.stay()
            self._wish()
            return
        avoided = self._search.missing(error)
        if not (avoided or self._ready or self._search.waits_for_room):
            self._fail(error)
        elif not self._ready and (self._search.waits_for_room or now >= self.request.admission_until):
            # Who has not begun waits for room in the door's queue, where keys are told apart.
            self._fail(self._search.last_error or error)
        elif not avoided and self._orphaned_too_long(now):
            self._fail(error)
        else:
            self._state = State.WAITING
            self._retry_at = now + RETRY_SECONDS

    def _orphaned_too_long(self, now: float) -> bool:
        if self._orphaned_at is None:
            self._orphaned_at = now
        return now - self._orphaned_at >= self.request.hold_seconds

    def view_changed(self, now: float) -> None:
        """Someone came or went: a session that waits for a path asks again at once."""
        if self._state is State.WAITING and not self._search.waits_for_room:
            self._find(now)

    def opened(self, sender: NodeId, message: Opened, now: float) -> None:
        leg = self._leg
        if self._mover.opened(sender, message, now):
            return
        if leg is None or self._state is not State.OPENING or not leg.opened(sender, message):
            self._drop("opened")
        elif not leg.unopened:
            self._fill_hops(leg, now)

    def _fill_hops(self, leg: Leg, now: float) -> None:
        """Every hop is open: those that lack KV get it."""
        self._ways.release_all_but(leg)
        if not self._ready:
            self._ready = True
            self.cached_tokens = min(*leg.hits.values(), self._total - 1)
            self._effects.append(Ready())
        plan = leg.plan(self._total - 1)
        if plan is None and self._search.afresh:
            error = PeerError(leg.last, "its path can't begin the answer anew")
            self._recover(error, now, lost=self.hop_nodes)
            return
        if plan is None:
            # A hop with window layers has forgotten what it would have to go back to.
            self._search.begin_afresh()
            self._open(leg.path, now, self._settings.open_seconds)
            return
        self._position = plan.position
        self._state = State.FILLING
        leg.fill(plan.flows, now)
        self._run_if_filled(leg)

    def _run_if_filled(self, leg: Leg) -> None:
        if leg.filler.done:
            self._state = State.RUNNING
            self._stepper.start(leg, self._position)

    def filled(self, sender: NodeId, message: Filled, now: float) -> None:
        """A hop has taken in what it lacked, up to a position."""
        leg = self._leg
        if self._mover.filled(sender, message, now):
            return
        if leg is None or self._state is not State.FILLING or not leg.filled(sender, message, now):
            self._drop("filled")
        else:
            self._run_if_filled(leg)

    def refused(self, sender: NodeId, message: Refused, now: float) -> None:
        leg = self._leg
        moving = leg is not None and self._state is State.RUNNING
        if leg is not None and moving and self._mover.refused(sender, message, leg, now):
            return
        if (
            leg is None
            or message.epoch != leg.epoch
            or self._state not in ON_A_PATH
            or sender not in leg.nodes
        ):
            self._drop("refused")
        elif message.code == "log_gap" and not self._search.afresh:
            # No fault: it opens again, and this time says where its log begins.
            self._search.gap()
            self._open(leg.path, now, self._settings.open_seconds)
        else:
            found = verdict(leg, sender, message, self._search)
            if found.avoid is not None:
                self._search.avoid(found.avoid)
            if found.shun is not None:
                self._ways.shun(found.shun)
            self._recover(found.error, now, lost=self.hop_nodes if found.lost is None else (found.lost,))

    # --- leaving hops that still work ---

    def leave(self, node: NodeId, now: float, *, one_span: bool = False) -> None:
        """A node asks that its hops be left: all of them, now and later, or the one that there is now."""
        if not one_span:
            self._mover.leave_node(node)
        elif self._leg is not None:
            for hop in self._leg.path.hops:
                if hop.node == node:
                    self._mover.leave_hop(hop)
        if self._state is State.RUNNING and self._leg is not None:
            self._mover.try_now(self._leg, now)

    def move_found(self, path: ChosenPath, now: float) -> None:
        if self._state is State.RUNNING and self._leg is not None:
            self._mover.found(path, self._leg, now)

    def move_missing(self) -> None:
        self._mover.nowhere()

    def _switch(self, now: float) -> None:
        """At a token boundary, with nothing under way: go on over the other leg."""
        breaks, kept = self._mover.breaks, self._mover.kept
        leg = self._mover.take()
        if breaks:
            self._open(leg.path, now, self._settings.open_seconds)
            return
        self._take(leg)
        self._ways.ask_to_open(leg, kept, now, self._settings.open_seconds)
        if not leg.unopened:
            self._fill_hops(leg, now)

    # --- steps ---

    def embedded(self, epoch: int, hidden: bytes, now: float) -> None:
        """The next chunk's embeddings are here."""
        leg, move = self._leg, self._mover.leg
        if move is not None and epoch == move.epoch:
            move.embedded(hidden, now)
        elif leg is None or epoch != leg.epoch:
            return
        elif self._state is State.FILLING:
            leg.embedded(hidden, now)
        elif self._state is State.RUNNING:
            self._stepper.embedded(leg, hidden, now)

    def output(self, sender: NodeId, message: Output, payload: memoryview | bytes, now: float) -> None:
        leg = self._leg
        if leg is None or self._state is not State.RUNNING:
            self._drop("output_of_old_epoch")
            return
        if why := leg.why_not(sender, message):
            self._drop(why)
            return
        if not self._stepper.fits(leg, message, payload):
            self._search.avoid(sender)
            self._recover(PeerError(sender, "sent an output of the wrong size"), now, lost=(sender,))
            return
        if self.accepted and (slow := self._slow.observe(message.times)) is not None:
            self._mover.try_to_leave(leg.path.hops[slow].node, now)
        payload = self._stepper.take(leg, message, payload, now)
        if payload:
            self._sampling = True
            self._effects.append(Sample(payload, leg.path.dtype, self._answer.drafts))
        else:
            self._stepper.fill(leg)

    def busy(self, sender: NodeId, message: Busy, now: float) -> None:
        for leg in (self._leg, self._mover.leg):
            if leg is not None and message.epoch == leg.epoch and sender in leg.nodes:
                leg.moved(now)

    def sampled(
        self, tokens: Sequence[int], logprobs: Sequence[object], next_hidden: bytes, now: float
    ) -> None:
        """Accept tokens. They are never sampled again, whatever happens to the path from here on."""
        self._sampling = False
        if self._state is State.ENDED:
            return
        self._search.progressed()
        taken, reason = self._answer.accept(tokens)
        if taken:
            self._effects.append(Emit(tuple(tokens[:taken]), tuple(logprobs[:taken])))
        if reason:
            self._end()
            self._effects.append(Finish(reason))
        elif self._state is State.RUNNING:
            self._next(next_hidden, now)
        elif self._state is State.FINDING:
            self._wish()

    def scored(self, epoch: int, start: int, logprobs: Sequence[object]) -> None:
        """What rows of the prefill say of the prompt."""
        if epoch == self.epoch and self.scoring is not None:
            self.scoring.keep(start, logprobs)

    def sample_failed(self, error: SwarmError, now: float) -> None:
        """The output could not be used: NaN, or a size that passed no check here."""
        self._sampling = False
        self._answer.drafts = ()
        if self._state is State.RUNNING and self._leg is not None:
            # Whoever made it bad, its neighbours' KV may be bad too: nothing is kept.
            self._search.avoid(self._leg.last)
            self._recover(error, now, lost=self.hop_nodes)
        elif self._state is State.FINDING:
            self._wish()

    # --- faults and time ---

    def link_down(self, node: NodeId, now: float) -> None:
        """The link to a node broke or is suspect."""
        if node not in self.hop_nodes or self._state is State.ENDED:
            return
        if self._leg is not None and node in self._leg.nodes:
            self._search.avoid(node)
            self._recover(PeerError(node, "the link to it broke"), now, lost=(node,))
        elif self._leg is not None and node in self._mover.new_nodes:
            self._mover.abandon((node,), self._leg, now)
        else:
            self._search.avoid(node)
            self._ways.release((node,))

    def tick(self, now: float) -> None:
        if self._state is State.ENDED:
            return
        leg = self._leg
        if now >= self.request.deadline:
            last = self._search.last_error
            waited = f" (last: {last})" if last else ""
            self._fail(
                DeadlineError(f"The request's deadline passed before its answer was complete{waited}.")
            )
        elif self._state is State.WAITING and now >= self._retry_at:
            self._find(now)
        elif leg is not None and leg.late(now):
            self._late(leg, now)
        elif leg is not None:
            self._mover.late(leg, now)

    def _late(self, leg: Leg, now: float) -> None:
        """Leave who did not open in time; after a late step ask first who still answers at all."""
        if self._state is State.OPENING:
            late = [leg.path.hops[place].node for place in sorted(leg.unopened)]
            self._search.avoid(*late)
            self._recover(StepTimeoutError(late[0], "did not answer OpenSession in time"), now, lost=late)
            return
        error = StepTimeoutError(leg.last, "its path did not answer a step in time")
        if self._search.first_late():
            self._recovering(error)
            self._open(leg.path, now, self._settings.step_min_seconds)
            return
        others = self.hop_nodes - {self.request.origin}
        self._search.avoid(*others)
        self._recover(error, now, lost=others)

    def cancel(self) -> None:
        """The client is gone, or has enough: free every hop."""
        if self._state is not State.ENDED:
            self._end()

    # --- inside ---

    @property
    def _total(self) -> int:
        return self._answer.total

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _find(self, now: float) -> None:
        self._state = State.FINDING
        self._retry_at = now
        if not self._sampling:
            self._wish()

    def _wish(self) -> None:
        held = tuple(hop for hop in self._ways.hops.held if not self._mover.leaves(hop))
        self._effects.append(self._search.wish(held))

    def _recovering(self, error: SwarmError) -> None:
        self._search.failed(error)
        if self._ready:
            self.recoveries += 1

    def _recover(self, error: SwarmError, now: float, *, lost: Iterable[NodeId]) -> None:
        """Leave the path. What the hops not lost have stays there for the next one."""
        self._recovering(error)
        self._leave(lost)
        if self._search.exhausted:
            self._fail(error)
        else:
            self._find(now)

    def _leave(self, lost: Iterable[NodeId]) -> None:
        self._ways.release(lost)
        self._leg = None
        self._mover.dissolve()
        self._forget_embeddings()

    def _forget_embeddings(self) -> None:
        """What was being embedded was for a leg that is left; drafts whose sample is under way are still judged."""
        self._stepper.forget()
        if not self._sampling:
            self._answer.drafts = ()

    def _end(self) -> None:
        self._leave(self.hop_nodes)
        self._state = State.ENDED

    def _fail(self, error: SwarmError) -> None:
        self._end()
        self._effects.append(Fail(error))

    def _next(self, next_hidden: bytes, now: float) -> None:
        """Send the last accepted token on, followed by drafts where those may pay."""
        leg = self._leg
        if leg is None:
            return
        if self._ways.outgrown:
            self._open(leg.path, now, self._settings.open_seconds)
            return
        if self._mover.active:
            if self._mover.ready:
                self._switch(now)
                return
            self._mover.try_now(leg, now)
        self._stepper.next(leg, next_hidden, now)
