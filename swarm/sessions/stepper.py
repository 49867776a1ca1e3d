"""The steps of an answer over a leg that is open and filled: chunks of what is left to prefill, then token by token.

Pure. Asks for embeddings, sends them on as steps, and says what of an output is to be sampled.
"""

from __future__ import annotations

from swarm.config import EngineSettings
from swarm.protocol.messages import HopTime, Output, Rows
from swarm.sessions.answer import AnswerTokens
from swarm.sessions.effects import Effect, Embed, Score
from swarm.sessions.leg import Leg
from swarm.sessions.scoring import PromptScoring
from swarm.types import DTYPE_BYTES

Payload = memoryview | bytes


class Stepper:
    """Appends what is to be done to ``effects``."""

    def __init__(
        self, answer: AnswerTokens, effects: list[Effect], engine: EngineSettings, hidden_size: int
    ) -> None:
        self.times: tuple[HopTime, ...] = ()
        """What each hop spent on the newest step."""
        self._answer = answer
        self._effects = effects
        self._engine = engine
        self._hidden_size = hidden_size
        self._position = 0
        self._embedding = False
        self._own_rows = 1

    def start(self, leg: Leg, position: int) -> None:
        """Every hop has the KV of ``position`` tokens: prefill the rest."""
        self._position = position
        if self._answer.scoring is not None:
            self._answer.scoring.restart()
        self.fill(leg)

    def forget(self) -> None:
        """What was being embedded was for a leg that is left."""
        self._embedding = False

    def fill(self, leg: Leg) -> None:
        """Ask for the next chunk's embeddings while the window has room."""
        if self._embedding or self._position >= self._answer.total:
            return
        if len(leg.window) < self._engine.prefill_window:
            self._embedding = True
            tokens = self._answer.between(self._position, self._position + self._chunk())
            self._effects.append(Embed(leg.epoch, tokens, leg.path.dtype))

    def next(self, leg: Leg, hidden: bytes, now: float) -> None:
        """Send the last accepted token on, followed by drafts where those may pay."""
        self._position = self._answer.total - 1
        busiest = max((time.batch_rows for time in self.times), default=1)
        drafts = self._answer.guess(busiest - self._own_rows)
        if drafts:
            self._embedding = True
            tokens = (self._answer.accepted[-1], *drafts)
            self._effects.append(Embed(leg.epoch, tokens, leg.path.dtype))
        else:
            self._send(leg, 1, "last", hidden, now)

    def embedded(self, leg: Leg, hidden: bytes, now: float) -> None:
        self._embedding = False
        if self._answer.drafts:
            self._send(leg, 1 + len(self._answer.drafts), "all", hidden, now)
            return
        count = self._chunk()
        rows: Rows = "last" if self._position + count == self._answer.total else "none"
        self._send(leg, count, rows if self._answer.to_score is None else "all", hidden, now)
        self.fill(leg)

    def fits(self, leg: Leg, message: Output, payload: Payload) -> bool:
        """Return whether an output has the rows and the bytes that its step asked for, and the times of its hops."""
        rows, dtype = leg.window.rows, leg.path.dtype
        size = rows * self._hidden_size * DTYPE_BYTES[dtype]
        told = len(message.times) <= len(leg.path.hops)
        return message.count == rows and len(payload) == size and message.dtype == dtype and told

    def take(self, leg: Leg, message: Output, payload: Payload, now: float) -> Payload:
        """Take an output that fits; return the rows to sample, which are none within a prefill."""
        rows = leg.window.rows
        leg.window.answered(message.step, now)
        self.times = message.times
        scoring = self._answer.to_score
        if rows and scoring is not None:
            payload = self._score(leg, scoring, rows, payload)
        return payload

    def _score(self, leg: Leg, scoring: PromptScoring, rows: int, payload: Payload) -> Payload:
        """Have a chunk's rows compared with the prompt; return the row behind the prompt, or nothing."""
        start, tokens = scoring.take(rows)
        dtype = leg.path.dtype
        cut = len(tokens) * self._hidden_size * DTYPE_BYTES[dtype]
        if tokens:
            self._effects.append(Score(leg.epoch, start, payload[:cut], dtype, tokens))
        return payload[cut:]

    def _chunk(self) -> int:
        return min(self._engine.prefill_chunk, self._answer.total - self._position)

    def _send(self, leg: Leg, count: int, rows: Rows, hidden: bytes, now: float) -> None:
        self._own_rows = count
        leg.send_step(self._position, count, rows, hidden, now)
        self._position += count
