"""The origin's side of a node: its front door's models, paths and running answers. Knows no HTTP."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from swarm.engine.grammar import GrammarMask
from swarm.engine.jobs import EmbedJob, EmbedResult, SampleJob, SampleResult
from swarm.engine.sampling import Sampler
from swarm.errors import (
    ContextLengthError,
    DrainingError,
    LinkDownError,
    ModelOnItsWayError,
    NoPathError,
    RequestError,
)
from swarm.node.front import GenerationRequest, RouteHop, ServedModel
from swarm.node.generation import OriginTag, RunningGeneration
from swarm.node.hosting import Hosting, private_layers
from swarm.node.trust import trusted_nodes
from swarm.protocol.messages import Busy, Drain, Filled, Hop, Opened, Output, Refused, Renew
from swarm.routing.cost import PathHop, expected_seconds
from swarm.routing.patch import patched
from swarm.routing.path import Path, PathRequest, find_path
from swarm.routing.placement import missing_layers, uncoming_layers
from swarm.routing.predict import predict
from swarm.sessions.effects import ChosenPath, Edge, FindPath, Send, Shun
from swarm.sessions.origin import OriginSession
from swarm.sessions.prefix import PrefixNames
from swarm.sessions.request import Request
from swarm.types import BootId, ModelId, NodeId, SessionId

if TYPE_CHECKING:
    from swarm.config import Config, SessionSettings
    from swarm.engine.worker import Engine
    from swarm.models.store import LocalModel
    from swarm.models.tokenizer import ChatTokenizer
    from swarm.node.bus import Bus
    from swarm.node.door_models import DoorModels
    from swarm.node.library import Library
    from swarm.node.meters import Meters
    from swarm.routing.view import SwarmView

OriginMessage = Opened | Output | Refused | Busy | Filled
"""What hops send to the origin of a session."""


THROUGHPUT_QUEUE_WEIGHT = 4.0
"""For requests that prefer throughput: a busy node is worth a detour of four times its queue."""


@dataclass(slots=True)
class _Shunned:
    until: float
    seconds: float
    boot: BootId | None
    """The process at the edge's end that could not be reached: one that began since is another."""


class Origin:
    """Implements node.front.FrontDoor, except ``state``, and carries out what running answers ask for."""

    def __init__(
        self,
        *,
        node: NodeId,
        config: Config,
        engine: Engine,
        bus: Bus,
        hosting: Hosting,
        library: Library,
        door: DoorModels,
        view: Callable[[], SwarmView],
        names: Callable[[NodeId], str],
        labels: Callable[[NodeId], tuple[str, ...]],
        clock: Callable[[], float],
        meters: Meters,
    ) -> None:
        self.meters = meters
        self._node = node
        self._config = config
        self._engine = engine
        self._bus = bus
        self._hosting = hosting
        self._library = library
        self._door = door
        self._view = view
        self._names = names
        self._labels = labels
        self._clock = clock
        self._running: dict[SessionId, RunningGeneration] = {}
        self._numbers: dict[SessionId, int] = {}
        self._opened = 0
        self._shunned: dict[Edge, _Shunned] = {}
        self._first_seen: dict[ModelId, int] = {}
        self._renewed_at = 0.0
        self._secret = os.urandom(32)
        self._private = private_layers(config.model.private_layers)
        self.draining = False
        """No new answers begin here; those that run go on."""

    @property
    def running(self) -> int:
        return len(self._running)

    # --- FrontDoor ---

    def models(self) -> tuple[ServedModel, ...]:
        view = self._view()
        known: dict[ModelId, tuple[int, LocalModel | None]] = {
            model_id: (local.spec.layers, local) for model_id, local in self._hosting.local_models().items()
        }
        for model_id, layers in view.layers.items():
            known.setdefault(model_id, (layers, None))
        return tuple(self._served(model_id, *known[model_id], view) for model_id in sorted(known))

    def _served(
        self, model_id: ModelId, layers: int, local: LocalModel | None, view: SwarmView, name: str = ""
    ) -> ServedModel:
        return ServedModel(
            name=name or self._name(model_id),
            digest=model_id.digest,
            layers=layers,
            context_tokens=local.spec.context_tokens if local else 0,
            created=self._first_seen.setdefault(model_id, int(time.time())),
            # A node that leaves is no part of its own view.
            missing=() if self.draining else missing_layers(view, model_id, layers),
            problem="this node is leaving the swarm" if self.draining else self._door.problem(model_id),
        )

    def _name(self, model_id: ModelId) -> str:
        """Return the model's name, or its long one where the name means other weights or several."""
        try:
            return model_id.name if self._library.resolve(model_id.name) == model_id else str(model_id)
        except RequestError:
            return str(model_id)

    async def ready(self, model: str) -> ServedModel:
        if self.draining:
            raise DrainingError
        view = self._view()
        model_id = self._library.resolve(model, coming=(one.model for one in view.intentions))
        local = self._hosting.local_models().get(model_id)
        layers = local.spec.layers if local is not None else view.layers[model_id]
        if missing := missing_layers(view, model_id, layers):
            if not uncoming_layers(view, model_id, layers):
                holes = ", ".join(span.described() for span in missing)
                raise ModelOnItsWayError(
                    f"nodes of this swarm are loading {holes} of {model}; try again in a few seconds"
                )
            raise NoPathError(model, missing)
        return self._served(model_id, layers, await self._door.ready(model_id), self._view(), model)

    async def tokenizer(self, model: str) -> ChatTokenizer:
        return await self._door.tokenizer(self._library.resolve(model))

    def _session_settings(self, model: ModelId) -> SessionSettings:
        settings = self._config.session
        return settings if self._hosting.can_draft(model) else replace(settings, draft_tokens=0)

    async def open(self, request: GenerationRequest) -> RunningGeneration:
        if self.draining:
            raise DrainingError
        local = await self._door.ready(self._library.resolve(request.model))
        spec = local.spec
        if not request.prompt:
            raise RequestError("The prompt has no tokens.", param="messages")
        if len(request.prompt) >= spec.context_tokens:
            raise ContextLengthError(len(request.prompt), spec.context_tokens)
        tokenizer = await self._hosting.tokenizer(local)
        mask = await _mask(tokenizer, request)
        now = self._clock()
        stop_ids = request.stop_token_ids | (frozenset() if request.ignore_eos else tokenizer.stop_ids)
        core = OriginSession(
            Request(
                origin=self._node,
                session=SessionId(os.urandom(16)),
                model=local.id,
                prompt=request.prompt,
                max_tokens=request.max_tokens,
                context_tokens=spec.context_tokens,
                hidden_size=spec.hidden_size,
                stop_ids=stop_ids,
                deadline=now + request.deadline_seconds,
                hold_seconds=request.deadline_seconds
                if request.streamed
                else self._config.session.hold_seconds,
                admission_until=now + min(self._config.api.queue_seconds, request.deadline_seconds),
                score_prompt=request.prompt_logprobs is not None,
                switch_tokens=spec.switch_tokens,
            ),
            self._session_settings(local.id),
            self._config.engine,
            now,
            PrefixNames(self._secret, f"{local.id}|{request.scope}")
            if self._config.engine.prefix_share
            else None,
        )
        sampler = Sampler(request.sampling, prompt=request.prompt, mask=mask)
        generation = RunningGeneration(
            core, sampler, tokenizer.detokenizer(request.prompt), self, wishes=request
        )
        self._running[generation.session] = generation
        self._opened += 1
        self._numbers[generation.session] = self._opened
        try:
            await generation.ready()
        except BaseException:
            await generation.aclose()
            raise
        return generation

    def starving(self) -> bool:
        return any(generation.core.starving for generation in self._running.values())

    def state(self) -> list[dict[str, Any]]:
        """The running answers as JSON values, without their ids or texts."""
        return [
            {
                "number": self._numbers[generation.session],
                "age_seconds": round(generation.age_seconds, 2),
                "model": generation.core.request.model.name,
                "route": [
                    {"node": hop.node, "name": hop.name, "layers": str(hop.span)} for hop in generation.route
                ],
                "prompt_tokens": generation.stats.prompt_tokens,
                "completion_tokens": generation.stats.completion_tokens,
                "recoveries": generation.core.recoveries,
                "moves": generation.core.moves,
            }
            for generation in self._running.values()
        ]

    # --- what running answers ask for ---

    def now(self) -> float:
        return self._clock()

    def find_path(self, generation: RunningGeneration, wish: FindPath) -> ChosenPath:
        request = generation.core.request
        local = self._hosting.local_models()[request.model]
        first, last = self._private
        view = self._view()
        wishes = generation.wishes
        asked = PathRequest(
            origin=self._node,
            model=request.model,
            layers=local.spec.layers,
            avoid_nodes=wish.avoid_nodes,
            avoid_edges=wish.avoid_edges,
            first_layers_at_origin=first,
            last_layers_at_origin=last,
            allowed=None if wishes.trust is None else self._trusted(wishes.trust, view),
            max_hops=wishes.max_hops,
            queue_weight=THROUGHPUT_QUEUE_WEIGHT if wishes.prefer == "throughput" else 1.0,
            salt=int.from_bytes(request.session[:4], "big") + wish.attempt,
        )
        path = self._patch(view, asked, generation, wish) or find_path(view, asked)
        if generation.stats.predicted is None:
            generation.stats.predicted = predict(
                view,
                request.model,
                self._node,
                path.hops,
                head_seconds=self._hosting.head_seconds,
                chunk_tokens=self._config.engine.prefill_chunk,
            )
        hops = tuple(Hop(hop.node, hop.boot, hop.span) for hop in path.hops)
        dtype = _wire_dtype(path, local.spec.dtype)
        return ChosenPath(hops, dtype, path.cost_seconds, expected_seconds(view, asked.model, path.hops))

    def _patch(
        self, view: SwarmView, asked: PathRequest, generation: RunningGeneration, wish: FindPath
    ) -> Path | None:
        """Return a path over the hops that have the answer's KV, if one avoids what failed."""
        last = generation.core.last_path
        held = [
            PathHop(hop.node, hop.boot, hop.span, last.dtype)
            for hop in wish.held
            if last is not None and hop.node not in wish.avoid_nodes and self._bus.linked(hop.node)
        ]
        settled = patched(view, asked.model, asked.layers, held)
        try:
            return find_path(settled, asked) if settled is not None else None
        except NoPathError:
            return None

    def _trusted(self, trust: frozenset[str], view: SwarmView) -> frozenset[NodeId]:
        """Return the nodes in view that a request trusts, by id, name or label."""
        described = {span.node: (self._names(span.node), *self._labels(span.node)) for span in view.spans}
        return trusted_nodes(trust, described)

    def send(self, send: Send) -> None:
        self._bus.send(send.node, send.message, send.payload)

    def submit(self, job: EmbedJob | SampleJob) -> None:
        self._engine.submit(job)

    def shun(self, shun: Shun, boots: Mapping[NodeId, BootId]) -> None:
        if shun.edge is None:
            return
        now = self._clock()
        boot = boots.get(shun.edge[1])
        known = self._shunned.get(shun.edge)
        again = known is not None and known.boot == boot and known.until + known.seconds > now
        seconds = known.seconds * 2 if known is not None and again else self._config.session.shun_seconds
        self._shunned[shun.edge] = _Shunned(now + seconds, seconds, boot)

    def shunned_edges(self) -> dict[Edge, BootId | None]:
        """Return the edges to be avoided now, and the process at the end of each if it is known."""
        now = self._clock()
        return {edge: shunned.boot for edge, shunned in self._shunned.items() if shunned.until > now}

    def describe(self, generation: RunningGeneration) -> tuple[RouteHop, ...]:
        path = generation.core.path or generation.core.last_path
        if path is None:
            return ()
        held = {(s.node, s.boot, s.model): s.quantize for s in self._view().spans}
        model = generation.core.request.model
        return tuple(
            RouteHop(
                hop.node,
                self._names(hop.node),
                hop.span,
                path.dtype,
                held.get((hop.node, hop.boot, model), "none"),
            )
            for hop in path.hops
        )

    def ended(self, generation: RunningGeneration) -> None:
        self._running.pop(generation.session, None)
        self._numbers.pop(generation.session, None)

    # --- what reaches running answers ---

    def received(self, sender: NodeId, message: OriginMessage, payload: memoryview) -> None:
        generation = self._running.get(message.session)
        if generation is not None and message.origin == self._node:
            generation.received(sender, message, payload)

    def computed(self, result: EmbedResult | SampleResult) -> None:
        if isinstance(result.tag, OriginTag):
            generation = self._running.get(result.tag.session)
            if generation is not None:
                generation.computed(result)

    def drained(self, sender: NodeId, message: Drain) -> None:
        """A hop asks that answers leave it: some of them, or all because it leaves."""
        for generation in list(self._running.values()):
            if not message.sessions:
                generation.tell(lambda core, now: core.leave(sender, now))
            elif generation.session in message.sessions:
                generation.tell(lambda core, now: core.leave(sender, now, one_span=True))

    def link_down(self, node: NodeId) -> None:
        for generation in list(self._running.values()):
            generation.tell(lambda core, now: core.link_down(node, now))

    def uses(self, node: NodeId) -> bool:
        """Return whether a running answer has ``node`` as a hop."""
        return any(node in generation.core.hop_nodes for generation in self._running.values())

    def view_changed(self) -> None:
        for generation in list(self._running.values()):
            generation.tell(OriginSession.view_changed)

    def tick(self) -> None:
        now = self._clock()
        for generation in list(self._running.values()):
            wakeup = generation.core.wakeup()
            if wakeup is not None and wakeup <= now:
                generation.tell(OriginSession.tick)
        if now - self._renewed_at >= self._config.session.renew_seconds:
            self._renewed_at = now
            self._renew()

    def _renew(self) -> None:
        by_hop: dict[NodeId, list[SessionId]] = {}
        for generation in self._running.values():
            for node in generation.core.hop_nodes:
                by_hop.setdefault(node, []).append(generation.session)
        for node, sessions in by_hop.items():
            try:
                self._bus.send(node, Renew(tuple(sessions)))
            except LinkDownError:
                # The link tier reports it to these very sessions; they find another path.
                continue


async def _mask(tokenizer: ChatTokenizer, request: GenerationRequest) -> GrammarMask | None:
    if request.grammar is None:
        return None
    # Compiling a large schema, or the vocabulary the first time, would hold up every other answer.
    return await asyncio.to_thread(GrammarMask, tokenizer, request.grammar)


def _wire_dtype(path: Path, checkpoint: str) -> str:
    """The checkpoint's dtype, or float32 as soon as one hop computes in it."""
    return "float32" if any(hop.dtype == "float32" for hop in path.hops) else checkpoint
