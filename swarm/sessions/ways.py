"""How an answer gets to hops and away from them: epochs given out, hops asked to take part, hops released. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from swarm.config import EngineSettings, SessionSettings
from swarm.sessions.answer import AnswerTokens
from swarm.sessions.effects import ChosenPath, Edge, Effect, Shun
from swarm.sessions.leases import OpenHops
from swarm.sessions.leg import Leg
from swarm.sessions.request import Request
from swarm.sessions.search import PathSearch
from swarm.types import NodeId


class Ways:
    """What an answer's path and its move share."""

    def __init__(
        self, request: Request, settings: SessionSettings, engine: EngineSettings, answer: AnswerTokens
    ) -> None:
        self.request = request
        self.settings = settings
        self.effects: list[Effect] = []
        self.hops = OpenHops(request.origin, request.session)
        self.search = PathSearch()
        self.last_epoch = 0
        self._engine = engine
        self._answer = answer
        self._short = False
        """Whether hops were opened for a text within ``switch_tokens``."""

    @property
    def total(self) -> int:
        return self._answer.total

    @property
    def keeps(self) -> bool:
        """Whether hops may go on from the KV they have: not while every row of the prompt is wanted."""
        return self._answer.to_score is None and not self.search.afresh and self.settings.recovery == "replay"

    @property
    def outgrown(self) -> bool:
        """Whether all that hops hold is of no use for the next token: it needs keys turned by the other factors."""
        return self._short and self.total > self.request.switch_tokens

    def new_leg(self, path: ChosenPath) -> Leg:
        self.last_epoch += 1
        return Leg(
            self.request,
            path,
            self.last_epoch,
            settings=self.settings,
            engine=self._engine,
            effects=self.effects,
            tokens=self._answer.between,
        )

    def ask_to_open(self, leg: Leg, places: Iterable[int], now: float, patience: float) -> None:
        """Have hops take part that keep, of prompt and accepted tokens, all they have but the last."""
        places = tuple(places)
        self.hops.opening(leg.path.hops, leg.epoch, places)
        ahead = min(max(self._answer.remaining, 0), self.settings.reserve_tokens)
        keep = self.total - 1 if self.keeps and not self.outgrown else 0
        kv_tokens = self.total + ahead
        # Hops choose the factors by the tokens that they are opened for.
        self._short = self.total <= self.request.switch_tokens
        if self._short:
            kv_tokens = min(kv_tokens, self.request.switch_tokens)
        leg.open(
            places,
            keep=keep,
            kv_tokens=kv_tokens,
            left_seconds=self.request.deadline - now,
            blocks=self._answer.blocks(),
            until=now + patience,
        )

    def release(self, nodes: Iterable[NodeId]) -> None:
        self.effects.extend(self.hops.release(nodes, self._answer.blocks()))

    def release_all_but(self, leg: Leg) -> None:
        self.effects.extend(self.hops.release_all_but(leg.path.hops, self._answer.blocks()))

    def shun(self, edge: Edge) -> None:
        self.search.avoid_edge(edge)
        self.effects.append(Shun(edge=edge))
