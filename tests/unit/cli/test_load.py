"""What many answers at once come to."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.cli.load import Round, percentile, prompt_of
from swarm.cli.streams import StreamResult


def answer(ttft: float, gaps: list[float], **facts: Any) -> StreamResult:
    return StreamResult(ttft, len(gaps) + 1, gaps, **facts)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (
        51.0,
        100.0,
        100.0,
    )
    assert percentile([], 0.5) == 0.0


def test_a_round_tells_of_the_streams_alone_and_together() -> None:
    slow, fast = answer(0.5, [0.1] * 10, prompt_tokens=101), answer(0.25, [0.05] * 10, prompt_tokens=99)
    summary = Round(3, [slow, fast], ["broken"], wall=1.5).summary()
    assert summary["ttft_ms"] == {"p50": 500.0, "p99": 500.0}
    assert summary["tpot_ms"] == {"p50": 100.0, "p99": 100.0}
    assert summary["inter_token_ms"] == {"p50": 100.0, "p99": 100.0}
    rates = summary["tokens_per_second"]
    assert (rates["a_stream"], rates["slowest_stream"], rates["in_all"]) == (15.0, 10.0, 16.0)
    assert (summary["answers"], summary["tokens"], summary["prompt_tokens"]) == (2, 22, 100)
    assert summary["errors"] == ["broken"]


def test_a_round_without_an_answer_is_all_zero() -> None:
    summary = Round(1, [], ["broken"], wall=1.0).summary()
    assert summary["tokens_per_second"] == {"a_stream": 0.0, "slowest_stream": 0.0, "in_all": 0.0}
    assert summary["answers"] == summary["prompt_tokens"] == 0


@pytest.mark.parametrize("tokens", [1, 40, 500])
def test_prompts_have_no_beginning_in_common(tokens: int) -> None:
    prompts = [prompt_of(tokens, number) for number in range(50)]
    assert len({prompt.split()[0] for prompt in prompts}) == 50
    assert {len(prompt.split()) for prompt in prompts} == {max(1, tokens - 30) + 1}
