"""More than a swarm can take, and clients and nodes that leave: real processes, sockets and a small random model.

Numbers are printed and recorded as properties of the tests; what is asserted is behaviour. The numbers under
docs/reliability.md come from the scripts named there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.pressure import SPANS, all_held, asking, being_written, end_of, stalled, wait_at_rest
from tests.support.streams import Heard, hear, percentile
from tests.support.swarm_process import SwarmProcesses, swarm_of, wait_for
from tests.support.tiny_model import write_tiny_model

pytestmark = [pytest.mark.processes, pytest.mark.real_model, pytest.mark.timeout(300)]

SETTINGS = """
[engine]
kv_bytes = 5000000
[api]
queue_seconds = 4.0
send_buffer_bytes = 16384
stalled_reader_seconds = 8.0
keepalive_seconds = 1.0
"""
"""Room for about 6,500 tokens at each node, which all of these tests together need several times."""

Report = Callable[[str, object], None]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmProcesses]:
    """Two nodes with front doors only, and two holders of each half of a small model."""
    model = write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    with swarm_of(["none", "none", *SPANS, *SPANS], model=model, settings=SETTINGS) as swarm:
        for door in swarm.nodes[:2]:
            wait_for("two holders of each half", lambda door=door: all_held(swarm, door))
        yield swarm


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Report:
    def say(name: str, value: object) -> None:
        record_property(name, value)
        print(f"{name}: {value}")

    return say


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(limits=httpx.Limits(max_connections=None))


async def undisturbed(swarm: SwarmProcesses, body: dict[str, Any]) -> str:
    async with client() as quiet:
        heard = await hear(quiet, swarm.nodes[0].url, body)
    assert heard.whole
    return heard.text


async def test_1_of_200_streams_at_once_each_is_answered_or_told_when_to_come_again(
    tiny: SwarmProcesses, report: Report
):
    """F17; that keys are treated alike is test_api_admission.py's."""
    text = await undisturbed(tiny, asking(tiny, 0, 64))
    async with client() as many:
        answers = await asyncio.gather(
            *(hear(many, tiny.nodes[0].url, asking(tiny, 0, 64)) for _ in range(200))
        )
    whole = [heard for heard in answers if heard.whole]
    refused = [heard for heard in answers if heard.status == 429]
    report("F17 answered / refused", f"{len(whole)} / {len(refused)}")
    report("F17 Retry-After (s)", sorted({int(heard.retry_after or 0) for heard in refused}))
    assert len(whole) + len(refused) == 200
    assert {heard.text for heard in whole} == {text}
    assert all(int(heard.retry_after or 0) >= 1 for heard in refused)
    wait_at_rest(tiny)


async def test_2_two_doors_that_fill_the_last_room_answer_or_refuse_and_leave_nothing(
    tiny: SwarmProcesses, report: Report
):
    """Answers also outgrow what they reserved at first, so that younger ones lose their room and go on later."""
    bodies = [asking(tiny, number, 280, words=200, timeout=90) for number in range(3)]
    texts = [await undisturbed(tiny, body) for body in bodies]
    async with client() as many:
        answers = await asyncio.gather(
            *(
                hear(many, tiny.nodes[number % 2].url, bodies[number // 2 % 3], headers={"x-n": str(number)})
                for number in range(24)
            )
        )
    whole = [(number, heard) for number, heard in enumerate(answers) if heard.whole]
    report("two doors: whole / refused", f"{len(whole)} / {sum(h.status == 429 for h in answers)}")
    report("two doors: longest pause (s)", round(max(heard.pause for _, heard in whole), 2))
    assert all(heard.ended_honestly for heard in answers)
    assert whole
    for number, heard in whole:
        assert heard.text == texts[number // 2 % 3]
    wait_at_rest(tiny)


async def test_3_clients_that_leave_free_every_hop(tiny: SwarmProcesses, report: Report):
    """F18."""

    async def leave(many: httpx.AsyncClient, number: int) -> None:
        async with many.stream(
            "POST", f"{tiny.nodes[number % 2].url}/v1/chat/completions", json=asking(tiny, number, 300)
        ) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if number % 2 == 0 or "content" in line:
                    return

    async with client() as many:
        await asyncio.gather(*(leave(many, number) for number in range(40)))
    report("F18 freed after (s)", round(wait_at_rest(tiny), 2))


async def test_4_readers_that_stop_reading_hold_nobody_up_and_are_cut(tiny: SwarmProcesses, report: Report):
    """F19: their answers are computed to the end and their KV is free while they still are not read."""
    door = tiny.nodes[0]
    alone = [await _timed(tiny, number) for number in range(3)]
    # With log-probabilities an answer is far more than all buffers hold.
    long = {"logprobs": True, "top_logprobs": 20}
    stuck = [stalled(door.url, asking(tiny, number, 200, **long)) for number in range(6)]
    try:
        beside = [await _timed(tiny, number) for number in range(3)]
        wait_at_rest(tiny, 60)
        assert being_written(door) == len(stuck)
        report("F19 seconds for 100 tokens alone / beside", f"{min(alone):.2f} / {min(beside):.2f}")
        # Only then are they read: who reads before it is cut gets the rest, as it should.
        wait_for("the door to have cut all who don't read", lambda: being_written(door) == 0)
        for connection in stuck:
            read, reset = await asyncio.to_thread(end_of, connection)
            assert reset
            assert b"[DONE]" not in read
    finally:
        for connection in stuck:
            connection.close()


async def _timed(swarm: SwarmProcesses, number: int) -> float:
    began = time.monotonic()
    async with client() as quiet:
        heard = await hear(quiet, swarm.nodes[0].url, asking(swarm, number, 100))
    assert heard.whole
    return time.monotonic() - began


@pytest.mark.parametrize("header", [False, True])
async def test_5_a_deadline_ends_a_stream_with_an_error_event(tiny: SwarmProcesses, header: bool):
    body = asking(tiny, 1, 3000)
    async with client() as one:
        heard = await hear(
            one,
            tiny.nodes[0].url,
            body if header else {**body, "timeout": 1.0},
            headers={"x-swarm-timeout": "1.0"} if header else None,
        )
    assert heard.text
    assert heard.error is not None
    assert heard.error["code"] == "deadline_exceeded"
    assert (heard.done, heard.finish) == (0, [])
    wait_at_rest(tiny)


async def test_6_a_rolling_restart_under_load_fails_nothing(tiny: SwarmProcesses, report: Report):
    """F6: every holder is stopped in good order and started again, one after the other, under 12 streams."""
    bodies = [asking(tiny, number, 60, words=50) for number in range(4)]
    texts = [await undisturbed(tiny, body) for body in bodies]
    rolling = True
    answers: list[tuple[int, Heard]] = []

    async def ask_on(many: httpx.AsyncClient, number: int) -> None:
        while rolling:
            answers.append((number % 4, await hear(many, tiny.nodes[0].url, bodies[number % 4])))

    async with client() as many:
        workers = [asyncio.create_task(ask_on(many, number)) for number in range(12)]
        for node in tiny.nodes[2:]:
            await asyncio.to_thread(node.stop, 35)
            node.start()
            await asyncio.to_thread(wait_for, "the holder to be back", lambda: all_held(tiny, tiny.nodes[0]))
        rolling = False
        await asyncio.gather(*workers)
    pauses = [heard.pause for _, heard in answers]
    report("F6 answers, failed", f"{len(answers)}, {sum(not heard.whole for _, heard in answers)}")
    report("F6 pause p50 / p99 / max (s)", [round(percentile(pauses, s), 2) for s in (0.5, 0.99, 1.0)])
    assert [heard for _, heard in answers if not heard.whole] == []
    assert all(heard.text == texts[which] for which, heard in answers)


async def test_7_a_front_door_that_dies_takes_only_its_own_answers_along(
    tiny: SwarmProcesses, report: Report
):
    """F5; the last test here, as that door stays dead."""
    dying, living = tiny.nodes[1], tiny.nodes[0]
    wait_for("two holders of each half", lambda: all_held(tiny, dying))
    body = asking(tiny, 2, 400)
    text = await undisturbed(tiny, body)
    began = asyncio.Event()
    async with client() as many:
        other = [asyncio.create_task(hear(many, living.url, body)) for _ in range(3)]
        own = [
            asyncio.create_task(
                hear(many, dying.url, asking(tiny, 3, 3000), lambda count, _: began.set() if count else None)
            )
            for _ in range(3)
        ]
        await began.wait()
        dying.kill()
        killed_at = time.monotonic()
        lost, kept = await asyncio.gather(*own), await asyncio.gather(*other)
    assert all(heard.broken and not heard.done for heard in lost)
    assert all(heard.whole and heard.text == text for heard in kept)
    wait_at_rest(tiny, 30)
    report("F5 KV of the dead door freed after (s)", round(time.monotonic() - killed_at, 1))
