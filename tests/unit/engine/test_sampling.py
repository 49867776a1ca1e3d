"""Sampling against a plain numpy reference."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swarm.engine.params import SamplingParams
from swarm.engine.sampling import Sampler, draw_token, fractions, sample_rows
from swarm.errors import BadTensorError, EngineError

VOCABULARY = 40


def reference_choice(logits, params, generated, prompt):
    """The specified order, spelled out one token at a time in float64."""
    scores = np.array(logits, dtype=np.float64)
    for token in set(generated) | set(prompt):
        scores[token] *= 1 / params.repetition_penalty if scores[token] > 0 else params.repetition_penalty
    for token, count in Counter(generated).items():
        scores[token] -= params.presence_penalty + params.frequency_penalty * count
    for token, bias in params.logit_bias.items():
        scores[token] += bias
    for token, until in params.banned_until.items():
        if len(generated) < until:
            scores[token] = -np.inf
    ranked = np.sort(scores[np.isfinite(scores)])
    assume(np.min(np.diff(ranked)) > 1e-4)  # equal but for rounding: either may be the likelier one
    if params.temperature == 0 or params.top_k == 1:
        return int(np.argmax(scores)), scores
    shares = np.exp((scores - scores.max()) / params.temperature)
    shares /= shares.sum()
    shares[shares < params.min_p * shares.max()] = 0
    if params.top_p < 1:
        order = np.argsort(-shares, kind="stable")
        reached = np.cumsum(shares[order])
        last = int(np.searchsorted(reached, params.top_p * shares.sum()))
        shares[order[last + 1 :]] = 0
    if 0 < params.top_k < len(shares):
        shares[np.argsort(-shares, kind="stable")[params.top_k :]] = 0
    times = -np.log1p(-fractions(params.seed, params.choice, len(generated), len(shares)).astype(np.float64))
    finish = np.array([time / share if share else np.inf for time, share in zip(times, shares, strict=True)])
    return int(np.argmin(finish)), finish


distinct_logits = st.lists(st.integers(-400, 400), min_size=VOCABULARY, max_size=VOCABULARY, unique=True).map(
    lambda values: [value / 37 for value in values]
)
tokens = st.integers(0, VOCABULARY - 1)
sampling_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_p=st.sampled_from([1.0, 0.95, 0.6, 0.05]),
    top_k=st.sampled_from([0, 1, 2, 7, 39, 100]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    presence_penalty=st.sampled_from([0.0, 0.7, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logit_bias=st.dictionaries(tokens, st.sampled_from([-100.0, -2.0, 3.0]), max_size=3),
    seed=st.integers(0, 2**63),
    choice=st.integers(0, 3),
    banned_until=st.dictionaries(tokens, st.integers(0, 6), max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(distinct_logits, sampling_params, st.lists(tokens, max_size=6), st.lists(tokens, max_size=4))
def test_choices_follow_the_specified_order(logits, params, generated, prompt):
    sampler = Sampler(params, prompt)
    for token in generated:
        sampler.accept(token)
    row = torch.tensor(logits, dtype=torch.float32)
    wanted, finish = reference_choice(row.numpy(), params, generated, prompt)
    found = sampler.choose(row)
    if found != wanted:  # only a race that ends within rounding may differ
        assert finish[found] == pytest.approx(finish[wanted], rel=1e-5)


def test_the_frequencies_of_draws_are_the_probabilities():
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    counts = Counter(draw_token(logits, SamplingParams(seed=5), position) for position in range(20_000))
    for token, share in enumerate(torch.softmax(logits, -1).tolist()):
        assert counts[token] / 20_000 == pytest.approx(share, abs=0.012)


def test_draws_depend_on_seed_choice_and_position_only():
    draws = {(s, c, p): tuple(fractions(s, c, p, 3)) for s in range(5) for c in range(5) for p in range(40)}
    assert draws == {key: tuple(fractions(*key, 3)) for key in draws}
    assert len(set(draws.values())) == len(draws)
    assert all(0.0 < fraction < 1.0 for found in draws.values() for fraction in found)


def test_draws_are_the_same_on_every_machine_and_in_every_version():
    assert fractions(7, 0, 3, 3).tolist() == [0.7159799933433533, 0.3096824586391449, 0.4653382897377014]


def test_a_token_has_the_same_fraction_in_a_larger_vocabulary():
    assert fractions(1, 2, 3, 1000)[:10].tolist() == fractions(1, 2, 3, 10).tolist()


def test_other_rounding_of_the_logits_hardly_ever_changes_a_draw():
    """Cumulated probabilities, shifted like this, gave another token in 124 of 400 draws."""
    generator = torch.Generator().manual_seed(8)
    params = SamplingParams(seed=11)
    shift = torch.linspace(-1e-4, 1e-4, 50_000)
    changed = 0
    for position in range(400):
        logits = 2 * torch.randn(50_000, generator=generator)
        changed += draw_token(logits, params, position) != draw_token(logits + shift, params, position)
    assert changed <= 1


def drawn(logits, params, draws=400):
    return {draw_token(logits, params, position) for position in range(draws)}


def test_top_p_keeps_the_token_that_crosses_the_threshold():
    assert drawn(torch.log(torch.tensor([0.5, 0.3, 0.2])), SamplingParams(top_p=0.6)) == {0, 1}


def test_top_p_is_taken_of_what_min_p_left():
    params = SamplingParams(min_p=0.5, top_p=0.55)  # 0.4 of 0.7 is above 0.55: one token is enough
    assert drawn(torch.log(torch.tensor([0.4, 0.3, 0.15, 0.15])), params) == {0}


def test_a_flat_distribution_is_cut_beyond_the_first_candidates():
    assert len(drawn(torch.zeros(5000), SamplingParams(top_p=0.5), 100)) > 90


def test_logprobs_are_of_the_raw_logits():
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(3))
    params = SamplingParams(temperature=0.4, logit_bias={7: 100.0}, top_logprobs=3)
    token, logprob = Sampler(params).sample(logits)
    wanted = torch.log_softmax(logits, -1)
    assert token == 7
    assert logprob is not None
    assert logprob.logprob == pytest.approx(float(wanted[7]), abs=1e-5)
    assert [entry[0] for entry in logprob.top] == wanted.topk(3).indices.tolist()


def test_no_logprobs_unless_asked_and_only_the_tokens_own_for_zero():
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(4))
    assert Sampler(SamplingParams(temperature=0.0)).sample(logits)[1] is None
    logprob = Sampler(SamplingParams(temperature=0.0, top_logprobs=0)).sample(logits)[1]
    assert logprob is not None
    assert logprob.top == ()


class OnlyEven:
    """A grammar that allows even tokens only."""

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def mask(self, logits: torch.Tensor) -> None:
        logits[1::2] = float("-inf")

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def test_a_grammar_masks_greedy_choices_too_and_follows_what_is_accepted():
    grammar = OnlyEven()
    sampler = Sampler(SamplingParams(temperature=0.0, logit_bias={5: 100.0}), mask=grammar)
    logits = torch.arange(VOCABULARY, dtype=torch.float32)
    assert [sampler.sample(logits)[0] for _ in range(2)] == [38, 38]
    assert grammar.accepted == [38, 38]


def test_drafts_are_accepted_while_they_equal_the_samples():
    logits = torch.zeros(6, VOCABULARY)
    for row, best in enumerate([3, 4, 5, 6, 9, 9]):
        logits[row, best] = 5.0
    greedy = [Sampler(SamplingParams(temperature=0.0)) for _ in range(2)]
    results = sample_rows(logits, greedy, [(3, 4, 8), (9,)])
    assert [result[0] for result in results] == [[3, 4, 5], [9, 9]]
    assert [sampler.position for sampler in greedy] == [3, 2]


@settings(deadline=None)
@given(sampling_params, st.lists(tokens, min_size=1, max_size=5))
def test_seeded_text_with_drafts_is_the_text_without(params, drafts):
    rows = torch.randn(len(drafts) + 1, VOCABULARY, generator=torch.Generator().manual_seed(1))
    alone = Sampler(params)
    wanted = []
    for row, draft in zip(rows, [*drafts, None], strict=True):
        wanted.append(alone.sample(row)[0])
        if wanted[-1] != draft:
            break
    result = sample_rows(rows, [Sampler(params)], [tuple(drafts)])[0]
    assert result[0] == wanted


def test_a_row_with_nan_fails_its_own_answer_only():
    logits = torch.randn(3, VOCABULARY)
    logits[1, 4] = float("nan")
    for params in (SamplingParams(temperature=0.0), SamplingParams(seed=1)):
        results = sample_rows(logits, [Sampler(params) for _ in range(3)], [(), (), ()])
        assert isinstance(results[1], BadTensorError)
        assert not isinstance(results[0], EngineError)
        assert not isinstance(results[2], EngineError)


@pytest.mark.parametrize("params", [SamplingParams(temperature=0.0), SamplingParams(seed=1)])
def test_a_bad_row_behind_a_draft_that_came_true_takes_nothing_back(params):
    """What was sampled before it is accepted: a sampler that went on would draw for other positions ever after."""
    logits = torch.randn(3, VOCABULARY)
    alone = Sampler(params)
    first = alone.sample(logits[0])[0]
    logits[1, 4] = float("nan")
    sampler = Sampler(params)
    result = sample_rows(logits, [sampler], [(first, 5)])[0]
    assert not isinstance(result, EngineError)
    assert result[0] == [first]
    assert sampler.position == 1
    assert sampler.sample(logits[2]) == alone.sample(logits[2])


def test_forbidding_every_token_is_an_error_not_a_guess():
    bias = {token: float("-inf") for token in range(VOCABULARY)}
    with pytest.raises(EngineError):
        Sampler(SamplingParams(logit_bias=bias)).sample(torch.zeros(VOCABULARY))
