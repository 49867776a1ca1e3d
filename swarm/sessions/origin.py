"""One answer as its origin drives it, a pure state machine. Sends, finds and samples nothing itself.

The list of accepted token ids is the only truth: every fault raises the epoch, asks for a new path and fills
it again from that list (docs/protocol.md, "Recovery"). Inputs are method calls with ``now`` (seconds of a
monotonic clock); outputs are the values of sessions/effects.py, drained in order by ``effects()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from swarm.config import EngineSettings, SessionSettings
from swarm.errors import DeadlineError, OverloadedError, PeerError, StepTimeoutError, SwarmError
from swarm.protocol.messages import (
    Busy,
    CloseSession,
    Hop,
    HopTime,
    Opened,
    OpenSession,
    Output,
    Refused,
    Rows,
    Step,
)
from swarm.sessions.drafts import Drafter
from swarm.sessions.effects import (
    ChosenPath,
    Effect,
    Embed,
    Emit,
    Fail,
    Finish,
    Ready,
    Sample,
    Score,
    Send,
    Shun,
)
from swarm.sessions.prefix import PrefixNames
from swarm.sessions.scoring import PromptScoring
from swarm.sessions.search import PathSearch
from swarm.sessions.window import StepWindow
from swarm.types import DTYPE_BYTES, ModelId, NodeId, SessionId

RETRY_SECONDS = 0.25


class State(Enum):
    FINDING = auto()
    OPENING = auto()
    RUNNING = auto()
    WAITING = auto()
    """For room or for a path; asks again at ``_retry_at`` or when the view changes."""
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be answered. ``deadline`` and ``admission_until`` are absolute, on the caller's clock."""

    origin: NodeId
    session: SessionId
    model: ModelId
    prompt: tuple[int, ...]
    max_tokens: int
    context_tokens: int
    hidden_size: int
    stop_ids: frozenset[int]
    deadline: float
    admission_until: float
    hold_seconds: float = float("inf")
    """How long an answer that has begun may stand without any path before it fails."""
    score_prompt: bool = False
    """Tell the log-probability of every token of the prompt but the first; no prefix is reused then."""

    @property
    def limit(self) -> int:
        """Tokens this answer may have: its budget or what the context leaves."""
        return min(self.max_tokens, self.context_tokens - len(self.prompt))


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
        self.accepted: list[int] = []
        self.epoch = 0
        self.path: ChosenPath | None = None
        self.last_path: ChosenPath | None = None
        self.times: tuple[HopTime, ...] = ()
        self.recoveries = 0
        self.cached_tokens = 0
        self.dropped: dict[str, int] = {}
        self._settings = settings
        self._engine = engine
        self._effects: list[Effect] = []
        self._state = State.FINDING
        self._ready = False
        self._search = PathSearch()
        self._unopened: set[int] = set()
        self._open_until = 0.0
        self._retry_at = 0.0
        self._orphaned_at: float | None = None
        self._position = 0
        self._window = self._new_window(0.0)
        self._embedding = False
        self._sampling = False
        self._drafts: tuple[int, ...] = ()
        self._own_rows = 1
        self.scoring = PromptScoring(request.prompt) if request.score_prompt else None
        self._names = names = None if request.score_prompt else names
        if names is not None:
            names.extend(request.prompt)
        self.drafter = Drafter(request.prompt, settings.draft_tokens)
        self._hits: list[int] = []
        self._find(now)

    # --- what the driver reads ---

    def effects(self) -> list[Effect]:
        drained, self._effects = self._effects, []
        return drained

    @property
    def ended(self) -> bool:
        return self._state is State.ENDED

    @property
    def starving(self) -> bool:
        """Whether an answer that has begun waits for room: newcomers must not take what comes free."""
        return self._ready and self._state is State.WAITING and self._search.waits_for_room

    @property
    def hop_nodes(self) -> frozenset[NodeId]:
        return frozenset(hop.node for hop in self.path.hops) if self.path else frozenset()

    def wakeup(self) -> float | None:
        """Return when ``tick`` is due, or None when the session has ended."""
        times = [self.request.deadline]
        if self._state is State.OPENING:
            times.append(self._open_until)
        elif self._state is State.WAITING:
            times.append(self._retry_at)
        elif self._state is State.RUNNING and self._window.deadline is not None:
            times.append(self._window.deadline)
        return None if self._state is State.ENDED else min(times)

    # --- path and admission ---

    def path_found(self, path: ChosenPath, now: float) -> None:
        if self._state is not State.FINDING:
            return
        self.path = self.last_path = path
        self._orphaned_at = None
        self.epoch += 1
        self._state = State.OPENING
        self._open_until = now + self._settings.open_seconds
        self._unopened = set(range(len(path.hops)))
        self._hits = []
        remaining = self.request.limit - len(self.accepted)
        kv_tokens = self._total + min(max(remaining, 0), self._settings.reserve_tokens)
        left = max(1, int((self.request.deadline - now) * 1000))
        for index, hop in enumerate(path.hops):
            message = OpenSession(
                self.request.origin,
                self.request.session,
                self.epoch,
                self.request.model,
                path.dtype,  # type: ignore[arg-type]  # checked where records are read
                path.hops,
                index,
                kv_tokens,
                0,
                left,
                self._blocks(),
            )
            self._effects.append(Send(hop.node, message))

    def path_missing(self, error: SwarmError, now: float) -> None:
        """No path avoids what failed: wait for room or for a node, or give up where neither may come."""
        if self._state is not State.FINDING:
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

    def opened(self, sender: NodeId, message: Opened) -> None:
        hop = self._hop(message.index)
        if (
            self._state is not State.OPENING
            or message.epoch != self.epoch
            or hop is None
            or hop.node != sender
        ):
            self._drop("opened")
            return
        if message.index not in self._unopened:
            return
        self._unopened.remove(message.index)
        self._hits.append(message.hit_tokens)
        if not self._unopened:
            self._state = State.RUNNING
            self._position = min(*self._hits, self._total - 1)
            self.cached_tokens = max(self.cached_tokens, 0 if self._ready else self._position)
            self._window = self._new_window(self.path.step_seconds if self.path else 0.0)
            if self.scoring is not None:
                self.scoring.restart()
            if not self._ready:
                self._ready = True
                self._effects.append(Ready())
            self._fill()

    def refused(self, sender: NodeId, message: Refused, now: float) -> None:
        if (
            message.epoch != self.epoch
            or self._state not in (State.OPENING, State.RUNNING)
            or sender not in self.hop_nodes
        ):
            self._drop("refused")
            return
        if message.code == "unreachable" and message.next is not None:
            edge = (sender, message.next)
            self._search.avoid_edge(edge)
            self._effects.append(Shun(edge=edge))
        else:
            self._search.avoid(sender)
        if message.code == "full":
            retry = max(1, message.retry_milliseconds // 1000)
            error: SwarmError = OverloadedError(
                f"Every path is full for now: {message.detail or 'no KV cache left'}.", retry
            )
        else:
            error = PeerError(sender, f"refused the session ({message.code}) {message.detail}".rstrip())
        self._recover(error, now)

    # --- steps ---

    def embedded(self, epoch: int, hidden: bytes, now: float) -> None:
        """The next chunk's embeddings are here."""
        if epoch != self.epoch or self._state is not State.RUNNING:
            return
        self._embedding = False
        if self._drafts:
            self._send_step(1 + len(self._drafts), "all", hidden, now)
            return
        count = self._chunk()
        rows: Rows = "last" if self._position + count == self._total else "none"
        self._send_step(count, rows if self._scoring is None else "all", hidden, now)
        self._fill()

    def output(self, sender: NodeId, message: Output, payload: memoryview | bytes, now: float) -> None:
        if message.epoch != self.epoch or self._state is not State.RUNNING or not self._window:
            self._drop("output_of_old_epoch")
            return
        path = self.path
        if path is None or sender != path.hops[-1].node:
            self._drop("output_of_stranger")
            return
        if message.step != self._window.expected:
            self._drop("output_of_other_step")
            return
        rows = self._window.rows
        size = rows * self.request.hidden_size * DTYPE_BYTES[path.dtype]
        if message.count != rows or len(payload) != size or message.dtype != path.dtype:
            self._search.avoid(sender)
            self._recover(PeerError(sender, "sent an output of the wrong size"), now)
            return
        self._window.answered(message.step, now)
        self.times = message.times
        if rows and self._scoring is not None:
            payload = self._score(self._scoring, rows, payload, path.dtype)
        if payload:
            self._sampling = True
            self._effects.append(Sample(payload, path.dtype, self._drafts))
        else:
            self._fill()

    def busy(self, sender: NodeId, message: Busy, now: float) -> None:
        if message.epoch == self.epoch and sender in self.hop_nodes:
            self._window.moved(now)

    def sampled(
        self, tokens: Sequence[int], logprobs: Sequence[object], next_hidden: bytes, now: float
    ) -> None:
        """Accept tokens. They are never sampled again, whatever happens to the path from here on."""
        self._sampling = False
        if self._state is State.ENDED:
            return
        self._search.progressed()
        if self._drafts:
            self.drafter.judged(len(self._drafts), len(tokens) - 1)
            self._drafts = ()
        reason = ""
        taken = 0
        for token in tokens:
            if token in self.request.stop_ids:
                reason = "stop"
                break
            self.accepted.append(token)
            taken += 1
            if len(self.accepted) >= self.request.limit:
                reason = "length"
                break
        self.drafter.extend(tokens[:taken])
        if self._names is not None:
            self._names.extend(tokens[:taken])
        if taken:
            self._effects.append(Emit(tuple(tokens[:taken]), tuple(logprobs[:taken])))
        if reason:
            self._end()
            self._effects.append(Finish(reason))
        elif self._state is State.RUNNING:
            self._next(next_hidden, now)
        elif self._state is State.FINDING:
            self._effects.append(self._search.wish())

    def scored(self, epoch: int, start: int, logprobs: Sequence[object]) -> None:
        """What rows of the prefill say of the prompt."""
        if epoch == self.epoch and self.scoring is not None:
            self.scoring.keep(start, logprobs)

    def sample_failed(self, error: SwarmError, now: float) -> None:
        """The output could not be used: NaN, or a size that passed no check here."""
        self._sampling = False
        self._drafts = ()
        if self._state is State.RUNNING and self.path is not None:
            self._search.avoid(self.path.hops[-1].node)
            self._recover(error, now)
        elif self._state is State.FINDING:
            self._effects.append(self._search.wish())

    # --- faults and time ---

    def link_down(self, node: NodeId, now: float) -> None:
        """The link to a node broke or is suspect."""
        if node in self.hop_nodes and self._state in (State.OPENING, State.RUNNING):
            self._search.avoid(node)
            self._recover(PeerError(node, "the link to it broke"), now)

    def tick(self, now: float) -> None:
        if self._state is State.ENDED:
            return
        if now >= self.request.deadline:
            last = self._search.last_error
            waited = f" (last: {last})" if last else ""
            self._fail(
                DeadlineError(f"The request's deadline passed before its answer was complete{waited}.")
            )
        elif self._state is State.WAITING and now >= self._retry_at:
            self._find(now)
        elif self._state is State.OPENING and now >= self._open_until and self.path is not None:
            late = [self.path.hops[index].node for index in sorted(self._unopened)]
            self._search.avoid(*late)
            self._recover(StepTimeoutError(late[0], "did not answer OpenSession in time"), now)
        elif self._state is State.RUNNING and self.path is not None and self._window.late(now):
            self._search.avoid(*(self.hop_nodes - {self.request.origin}))
            self._recover(
                StepTimeoutError(self.path.hops[-1].node, "its path did not answer a step in time"), now
            )

    def cancel(self) -> None:
        """The client is gone, or has enough: free every hop."""
        if self._state is not State.ENDED:
            self._end()

    # --- inside ---

    @property
    def _total(self) -> int:
        return len(self.request.prompt) + len(self.accepted)

    @property
    def _scoring(self) -> PromptScoring | None:
        """None as soon as there is an answer: by then all of the prompt has been compared."""
        return None if self.accepted else self.scoring

    def _score(
        self, scoring: PromptScoring, rows: int, payload: memoryview | bytes, dtype: str
    ) -> memoryview | bytes:
        """Have a chunk's rows compared with the prompt; return the row behind the prompt, or nothing."""
        start, tokens = scoring.take(rows)
        cut = len(tokens) * self.request.hidden_size * DTYPE_BYTES[dtype]
        if tokens:
            self._effects.append(Score(self.epoch, start, payload[:cut], dtype, tokens))
        return payload[cut:]

    def _blocks(self) -> tuple[bytes, ...]:
        """Names of the blocks before the last token, whose row is always computed."""
        return self._names.covering(self._total - 1) if self._names is not None else ()

    def _hop(self, index: int) -> Hop | None:
        return self.path.hops[index] if self.path and 0 <= index < len(self.path.hops) else None

    def _new_window(self, step_seconds: float) -> StepWindow:
        settings = self._settings
        return StepWindow(
            step_seconds=step_seconds, min_seconds=settings.step_min_seconds, factor=settings.step_factor
        )

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def _find(self, now: float) -> None:
        self._state = State.FINDING
        self._retry_at = now
        if not self._sampling:
            self._effects.append(self._search.wish())

    def _recover(self, error: SwarmError, now: float) -> None:
        self._search.failed(error)
        self._release_hops()
        if self._ready:
            self.recoveries += 1
        if self._search.exhausted:
            self._fail(error)
        else:
            self._find(now)

    def _release_hops(self) -> None:
        if self.path is None:
            return
        close = CloseSession(self.request.origin, self.request.session, self.epoch, self._blocks())
        self._effects.extend(Send(node, close) for node in sorted(self.hop_nodes))
        self.path = None
        self._embedding = False
        if not self._sampling:
            self._drafts = ()

    def _end(self) -> None:
        self._release_hops()
        self._state = State.ENDED

    def _fail(self, error: SwarmError) -> None:
        self._end()
        self._effects.append(Fail(error))

    def _chunk(self) -> int:
        return min(self._engine.prefill_chunk, self._total - self._position)

    def _fill(self) -> None:
        """Ask for the next chunk's embeddings while the window has room."""
        if (
            self._embedding
            or self._position >= self._total
            or len(self._window) >= self._engine.prefill_window
        ):
            return
        if self.path is None:
            return
        self._embedding = True
        prompt = self.request.prompt
        start, end = self._position, self._position + self._chunk()
        tokens = [*prompt[start:end], *self.accepted[max(0, start - len(prompt)) : max(0, end - len(prompt))]]
        self._effects.append(Embed(self.epoch, tokens, self.path.dtype))

    def _next(self, next_hidden: bytes, now: float) -> None:
        """Send the last accepted token on, followed by drafts where those may pay."""
        self._position = self._total - 1
        busiest = max((time.batch_rows for time in self.times), default=1)
        room = self.request.limit - len(self.accepted) - 1
        self._drafts = self.drafter.propose(rows_of_others=busiest - self._own_rows, room=room)
        if self._drafts and self.path is not None:
            self._embedding = True
            self._effects.append(Embed(self.epoch, (self.accepted[-1], *self._drafts), self.path.dtype))
        else:
            self._send_step(1, "last", next_hidden, now)

    def _send_step(self, count: int, rows: Rows, hidden: bytes, now: float) -> None:
        if self.path is None:
            return
        self._own_rows = count
        step = Step(
            self.request.origin,
            self.request.session,
            self.epoch,
            self._window.sent(count, {"none": 0, "last": 1, "all": count}[rows], now),
            self._position,
            count,
            self.request.hidden_size,
            self.path.dtype,  # type: ignore[arg-type]  # checked where records are read
            rows,
        )
        self._effects.append(Send(self.path.hops[0].node, step, hidden))
        self._position += count
