"""The log holds exactly the rows it says it does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.sessions.outputlog import ENTRY_BYTES, OutputLog

ROW = 3


def row(position: int, version: int) -> bytes:
    return bytes([position % 256, version % 256, 7])


@given(
    start=st.integers(0, 5),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 30), st.integers(1, 6)),
            st.tuples(st.just("cut"), st.integers(0, 30), st.just(0)),
            st.tuples(st.just("clear"), st.integers(0, 30), st.just(0)),
        ),
        max_size=30,
    ),
)
def test_rows_are_those_last_written_at_each_position(start, steps):
    log, model, first = OutputLog(start), {}, start
    for version, (what, position, count) in enumerate(steps):
        if what == "append":
            log.append(position, count, b"".join(row(position + at, version) for at in range(count)))
            if position > (max(model) + 1 if model else first) or (not model and position != first):
                model, first = {}, position
            model = {at: rows for at, rows in model.items() if at < position}
            if not model:
                first = position
            model |= {position + at: row(position + at, version) for at in range(count)}
        elif what == "cut":
            log.truncate(position)
            model = {at: rows for at, rows in model.items() if at < position}
            first = min(first, position) if not model else first
        else:
            log.clear(position)
            model, first = {}, position
    end = max(model) + 1 if model else first
    assert (log.start, log.end) == (first, end)
    assert log.rows(first, end - first) == (b"".join(model[at] for at in sorted(model)) or None)
    for at in model:
        assert log.rows(at, 1) == model[at]
    assert log.rows(end, 1) is None
    assert log.rows(first - 1, 1) is None
    assert log.bytes >= ROW * len(model)
    assert log.bytes <= (ROW + ENTRY_BYTES) * max(len(model), 0)


def test_payloads_are_kept_as_they_are():
    log, payload = OutputLog(0), bytes(300)
    log.append(0, 100, payload)
    assert log._entries[0][2] is payload
