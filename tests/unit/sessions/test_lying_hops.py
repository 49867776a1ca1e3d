"""An origin whose hops say anything at all raises nothing but ProtocolError, and sends nothing that has no frame."""

from __future__ import annotations

import contextlib
from itertools import pairwise

from hypothesis import event, given, settings
from hypothesis import strategies as st

from swarm.config import EngineSettings, SessionSettings
from swarm.errors import BadTensorError, NoPathError, ProtocolError
from swarm.protocol.codec import encode
from swarm.protocol.messages import Busy, Filled, Hop, HopTime, Opened, Output, Refused
from swarm.sessions.effects import ChosenPath, Embed, Emit, Fail, FindPath, Finish, Sample, Score, Send
from swarm.sessions.origin import OriginSession
from swarm.sessions.prefix import PrefixNames
from swarm.sessions.request import Request
from swarm.types import BootId, LayerSpan, ModelId, NodeId, SessionId

ORIGIN = NodeId("o" * 32)
SESSION = SessionId(bytes(16))
NODES = [NodeId(letter * 32) for letter in "abcde"]
CUTS = [(0, 6), (0, 3, 6), (0, 2, 4, 6)]
HIDDEN = 4
ROW = HIDDEN * 2
MOST_EFFECTS = 400

numbers = st.sampled_from([-(1 << 40), -1, 0, 1, 2, 3, 5, 16, 20, 40, 1 << 40])
times = st.lists(st.builds(HopTime, numbers, numbers, numbers), max_size=6).map(tuple)
codes = st.sampled_from(
    ["full", "draining", "no_model", "unreachable", "log_gap", "bad_tensor", "not_yours", "version", "failed"]
)


class Liars:
    """Carries out an origin's effects with what Hypothesis draws, and now and then honestly, so that it gets on."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.now = 0.0
        self.emitted = 0
        self.ended = 0
        request = Request(
            ORIGIN, SESSION, ModelId("org/model", "0" * 64), tuple(range(20)), 30, 4096, HIDDEN,
            frozenset(), 60.0, 10.0, score_prompt=data.draw(st.booleans(), label="scores"),
        )  # fmt: skip
        settings = SessionSettings(draft_tokens=data.draw(st.sampled_from([0, 7]), label="drafts"))
        engine = EngineSettings(prefill_chunk=4, prefill_window=2)
        self.core = OriginSession(request, settings, engine, 0.0, PrefixNames(b"secret", ""))
        self.pump()

    def pump(self) -> None:
        done = 0
        while effects := self.core.effects():
            done += len(effects)
            assert done < MOST_EFFECTS, "one input has endless consequences"
            for effect in effects:
                self.carry_out(effect)

    def carry_out(self, effect: object) -> None:
        if isinstance(effect, Send):
            encode(effect.message, effect.payload, number=1, part_bytes=65536)
        elif isinstance(effect, FindPath):
            self.find(effect)
        elif isinstance(effect, Embed):
            assert len(effect.tokens) > 0
            self.core.embedded(effect.epoch, bytes(ROW * len(effect.tokens)), self.now)
        elif isinstance(effect, Sample):
            assert len(effect.hidden) == ROW * (1 + len(effect.drafts))
            if self.data.draw(st.integers(0, 5), label="samples") == 0:
                self.core.sample_failed(BadTensorError("NaN"), self.now)
            else:
                count = self.data.draw(st.integers(1, 1 + len(effect.drafts)), label="tokens")
                self.core.sampled((7,) * count, (None,) * count, bytes(ROW), self.now)
        elif isinstance(effect, Score):
            assert len(effect.hidden) == ROW * len(effect.tokens)
            self.core.scored(effect.epoch, effect.start, [0.0] * len(effect.tokens))
        elif isinstance(effect, Emit):
            self.emitted += len(effect.tokens)
            assert self.ended == 0
        elif isinstance(effect, Finish | Fail):
            self.ended += 1

    def find(self, wish: FindPath) -> None:
        if self.data.draw(st.integers(0, 7), label="path") == 0:
            error = NoPathError("org/model", [LayerSpan(0, 6)])
            self.core.move_missing() if wish.moving else self.core.path_missing(error, self.now)
            return
        cut = self.data.draw(st.sampled_from(CUTS), label="cut")
        hops = tuple(
            Hop(self.data.draw(st.sampled_from(NODES), label="node"), BootId(b"bootboot"), LayerSpan(a, b))
            for a, b in pairwise(cut)
        )
        path = ChosenPath(hops, "bfloat16", 0.01)
        self.core.move_found(path, self.now) if wish.moving else self.core.path_found(path, self.now)

    # --- what hops say ---

    def hop(self) -> tuple[int, NodeId]:
        path = self.core.path or self.core.last_path
        if path is None or self.data.draw(st.integers(0, 9), label="stranger") == 0:
            return self.data.draw(numbers), self.data.draw(st.sampled_from(NODES))
        place = self.data.draw(st.integers(0, len(path.hops) - 1), label="place")
        return place, path.hops[place].node

    def epoch(self) -> int:
        return self.core.epoch + self.data.draw(st.sampled_from([0, 0, 0, 0, 1, -1]), label="epoch")

    def go_on(self) -> None:
        """What honest hops would say next, so that lies meet every state there is."""
        core, draw = self.core, self.data.draw
        legs = [leg for leg in (core._leg, core._mover.leg) if leg is not None]
        if not legs:
            return
        leg = draw(st.sampled_from(legs), label="leg")
        hops, epoch = leg.path.hops, leg.epoch
        if leg.unopened:
            place = min(leg.unopened)
            length = draw(st.integers(0, core._total - 1), label="length")
            log_from = draw(st.sampled_from([-1, 0, length]), label="log")
            core.opened(
                hops[place].node, Opened(ORIGIN, SESSION, epoch, length, 0, 0, place, log_from), self.now
            )
        elif not leg.filler.done and (step := leg.filler._window.expected) is not None:
            chunk = leg.filler._sent[step]
            place = chunk.flow.until - 1
            core.filled(hops[place].node, Filled(ORIGIN, SESSION, epoch, step, chunk.end, place), self.now)
        elif (step := leg.window.expected) is not None:
            told = tuple(HopTime(0, draw(st.sampled_from([1000, 1000, 200_000])), 1) for _ in hops)
            rows = leg.window.rows
            message = Output(ORIGIN, SESSION, epoch, step, 0, rows, HIDDEN, "bfloat16", told)
            core.output(leg.last, message, bytes(rows * ROW), self.now)

    def say(self, what: str) -> None:
        draw, core = self.data.draw, self.core
        place, node = self.hop()
        if what == "go on":
            self.go_on()
        elif what == "opened":
            length = draw(numbers)
            message = Opened(
                ORIGIN, SESSION, self.epoch(), length, draw(numbers), draw(numbers), place, draw(numbers)
            )
            core.opened(node, message, self.now)
        elif what == "opens well":
            length = draw(st.integers(0, 60))
            log_from = draw(st.integers(-1, length))
            floor = draw(st.sampled_from([0, 0, length]))
            core.opened(
                node, Opened(ORIGIN, SESSION, self.epoch(), length, 0, floor, place, log_from), self.now
            )
        elif what == "filled":
            core.filled(
                node,
                Filled(ORIGIN, SESSION, self.epoch(), draw(numbers), draw(numbers), place, draw(times)),
                self.now,
            )
        elif what == "refused":
            other = draw(st.sampled_from([None, *NODES]))
            message = Refused(
                ORIGIN,
                SESSION,
                self.epoch(),
                draw(codes),
                draw(numbers),
                "x" * draw(st.integers(0, 9)),
                other,
                place,
            )
            core.refused(node, message, self.now)
        elif what == "output":
            count = draw(st.sampled_from([0, 0, 1, 4]))
            dtype = draw(st.sampled_from(["bfloat16", "bfloat16", "float32"]))
            message = Output(
                ORIGIN, SESSION, self.epoch(), draw(numbers), draw(numbers), count, HIDDEN, dtype, draw(times)
            )
            core.output(node, message, bytes(count * HIDDEN * (4 if dtype == "float32" else 2)), self.now)
        elif what == "busy":
            core.busy(node, Busy(ORIGIN, SESSION, self.epoch(), draw(numbers)), self.now)
        elif what == "link down":
            core.link_down(node, self.now)
        elif what == "leaves":
            core.leave(node, self.now, one_span=draw(st.booleans()))
        elif what == "time":
            self.now += draw(st.sampled_from([0.0, 0.1, 1.0, 5.0]))
            core.tick(self.now)
        elif what == "view":
            core.view_changed(self.now)


words = st.sampled_from(
    [
        *["go on"] * 40,
        "opened", "opens well", "filled", "refused", "output", "busy", "link down", "leaves", "time", "view",
    ]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_an_origin_survives_whatever_its_hops_say(data):
    world = Liars(data)
    for what in data.draw(st.lists(words, min_size=20, max_size=100), label="course"):
        with contextlib.suppress(ProtocolError):
            world.say(what)
        world.pump()
        assert world.core.ended == (world.ended > 0)
    world.now = 61.0
    world.core.tick(world.now)
    world.pump()
    assert world.core.ended
    assert world.ended == 1
    event(f"moves {world.core.moves} rec {min(3, world.core.recoveries)} tokens {min(5, world.emitted)}")
    assert world.emitted == len(world.core.accepted)
