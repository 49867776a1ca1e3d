from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.engine.jobs import StepJob
from swarm.engine.scheduler import DECODE_ROWS, Scheduler, Waiting


def job(key: str, count: int, position: int = 0) -> StepJob:
    return StepJob(key, position, count, b"", "float32", "last")


def keys(batch: list[Waiting]) -> list[tuple[str, int]]:
    return [(str(waiting.job.key), waiting.job.count) for waiting in batch]


def test_answers_run_before_prompts_that_came_earlier():
    scheduler = Scheduler(512)
    scheduler.add(job("prompt", 300), "g", 0.0)
    scheduler.add(job("answer", 1), "g", 0.0)
    assert keys(scheduler.next_batch()) == [("answer", 1), ("prompt", 300)]


def test_a_prompt_that_does_not_fit_waits_for_the_next_batch():
    scheduler = Scheduler(512)
    scheduler.add(job("a", 300), "g", 0.0)
    scheduler.add(job("b", 300), "g", 0.0)
    scheduler.add(job("c", 1), "g", 0.0)
    assert keys(scheduler.next_batch()) == [("c", 1), ("a", 300)]
    assert keys(scheduler.next_batch()) == [("b", 300)]
    assert scheduler.next_batch() == []


def test_a_chunk_above_the_budget_still_runs():
    scheduler = Scheduler(64)
    scheduler.add(job("a", 100), "g", 0.0)
    scheduler.add(job("b", 1), "g", 0.0)
    assert keys(scheduler.next_batch()) == [("b", 1), ("a", 100)]


def test_chunks_of_one_prompt_run_one_after_the_other():
    scheduler = Scheduler(512)
    scheduler.add(job("a", 20), "g", 0.0)
    scheduler.add(job("a", 21, position=20), "g", 0.0)
    assert keys(scheduler.next_batch()) == [("a", 20)]
    assert keys(scheduler.next_batch()) == [("a", 21)]


def test_a_batch_never_mixes_groups_and_the_oldest_goes_first():
    scheduler = Scheduler(512)
    for name, group in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "y")):
        scheduler.add(job(name, 1), group, 0.0)
    assert keys(scheduler.next_batch()) == [("a", 1), ("c", 1)]
    assert keys(scheduler.next_batch()) == [("b", 1), ("d", 1)]


def test_a_truncation_is_due_only_behind_the_steps_before_it():
    scheduler = Scheduler(512)
    scheduler.add(job("a", 1), "g", 0.0)
    scheduler.cut("a", 5)
    scheduler.add(job("a", 2), "g", 0.0)
    assert scheduler.due_cuts() == []
    assert keys(scheduler.next_batch()) == [("a", 1)]
    assert [cut.length for cut in scheduler.due_cuts()] == [5]
    assert keys(scheduler.next_batch()) == [("a", 2)]


def test_dropping_a_sequence_returns_its_steps_and_leaves_the_others():
    scheduler = Scheduler(512)
    scheduler.add(job("a", 1), "g", 0.0)
    scheduler.add(job("b", 1), "g", 0.0)
    scheduler.add(job("a", 2), "g", 0.0)
    assert keys(scheduler.drop("a")) == [("a", 1), ("a", 2)]
    assert len(scheduler) == 1
    assert scheduler.drop("a") == []


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 80), st.integers(0, 1)), max_size=60),
    st.integers(16, 128),
)
def test_every_step_runs_once_in_the_order_of_its_sequence(arrivals, budget):
    scheduler = Scheduler(budget)
    wanted: dict[str, list[int]] = {}
    for order, (sequence, count, _) in enumerate(arrivals):
        key = f"{sequence}"
        scheduler.add(job(key, count, position=order), f"g{sequence % 2}", 0.0)
        wanted.setdefault(key, []).append(order)
    ran: dict[str, list[int]] = {}
    while batch := scheduler.next_batch():
        assert len({waiting.group for waiting in batch}) == 1
        assert len({waiting.job.key for waiting in batch}) == len(batch)
        fitting = [waiting for waiting in batch if waiting.job.count <= DECODE_ROWS]
        big = [waiting for waiting in batch if waiting.job.count > DECODE_ROWS]
        assert batch == fitting + big
        rows = sum(waiting.job.count for waiting in batch)
        assert rows <= budget or len(big) == 1
        for waiting in batch:
            ran.setdefault(str(waiting.job.key), []).append(waiting.job.position)
    assert ran == wanted
    assert len(scheduler) == 0
