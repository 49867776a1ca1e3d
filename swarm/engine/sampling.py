"""Choosing tokens from logits, by draws that depend on nothing but (seed, choice, position).

Knows nothing of models, sequences or batches beyond the rows it is given.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from swarm.engine.jobs import TokenLogprob
from swarm.engine.params import SamplingParams
from swarm.errors import BadTensorError, EngineError

_FIRST_CANDIDATES = 256
"""How many of the likeliest tokens are sorted first when top_p is looked for; doubled until they suffice."""


_BELOW_ONE = np.float32(1 - 2.0**-24)
"""The largest float32 below 1."""


class TokenMask(Protocol):
    """A grammar: forbids tokens before each draw and follows the tokens accepted."""

    def mask(self, logits: torch.Tensor) -> None:
        """Set the logits ([vocabulary], float32) of forbidden tokens to -inf, in place."""
        ...

    def accept(self, token: int) -> None:
        """Advance by ``token``."""
        ...


def fractions(seed: int, choice: int, position: int, size: int) -> npt.NDArray[np.float32]:
    """Return a number between 0 and 1 for each token ([size], float32), neither of them included.

    They look random and are the same on every machine and in every retry: the raw output of numpy's SFC64 is fixed for
    all its versions, and so is how it is seeded, here with a hash of the three numbers.
    """
    digest = hashlib.blake2b(f"{seed}/{choice}/{position}".encode(), digest_size=16).digest()
    raw = np.random.SFC64(int.from_bytes(digest, "little")).random_raw((size + 1) // 2)
    words = raw.astype("<u8", copy=False).view("<u4")[:size]
    found = words.astype(np.float32)
    found += np.float32(0.5)
    found *= np.float32(2.0**-32)
    return np.minimum(found, _BELOW_ONE, out=found)


class Sampler:
    """Chooses the tokens of one answer, one after the other.

    Penalties, logit_bias, min_tokens and grammar change raw logits, for greedy choices too; then temperature ->
    min_p -> top_p -> top_k -> draw. presence_penalty and frequency_penalty count generated tokens,
    repetition_penalty those of ``prompt`` too. Log-probabilities are those of the raw logits, before all of it,
    as OpenAI and vLLM report them.
    """

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int] = (), mask: TokenMask | None = None
    ) -> None:
        self.params = params
        self.position = 0
        """Tokens accepted so far: the position of the next one in the answer."""
        self._mask = mask
        self._counts: dict[int, int] = {}
        self._prompt = frozenset(prompt) if params.repetition_penalty != 1.0 else frozenset()
        self._greedy = params.temperature == 0.0 or params.top_k == 1
        self._adjusts = bool(
            params.presence_penalty
            or params.frequency_penalty
            or params.repetition_penalty != 1.0
            or params.logit_bias
            or params.banned_until
            or mask is not None
        )

    @property
    def plain_greedy(self) -> bool:
        """Whether the next token is just the arg-max of the raw logits, so that rows can be chosen together."""
        return self._greedy and not self._adjusts and self.params.top_logprobs is None

    def sample(self, logits: torch.Tensor) -> tuple[int, TokenLogprob | None]:
        """Choose a token from raw logits ([vocabulary], float32) and accept it.

        Raises BadTensorError for logits that hold NaN or +inf, EngineError when every token is forbidden.
        """
        token = self.choose(logits)
        logprob = _logprob(logits, token, self.params.top_logprobs)
        self.accept(token)
        return token, logprob

    def accept(self, token: int) -> None:
        """Count ``token`` as the next of the answer."""
        self.position += 1
        self._counts[token] = self._counts.get(token, 0) + 1
        if self._mask is not None:
            self._mask.accept(token)

    def choose(self, logits: torch.Tensor) -> int:
        """Return the token that ``sample`` would choose now, without accepting it."""
        scores = self._adjusted(logits) if self._adjusts else logits
        best = float(scores.max())
        if math.isnan(best) or best == math.inf:
            raise BadTensorError("the logits hold NaN or infinity")
        if best == -math.inf:
            raise EngineError("every token is forbidden")
        if self._greedy:
            return int(scores.argmax())
        return draw_token(scores, self.params, self.position)

    def _adjusted(self, logits: torch.Tensor) -> torch.Tensor:
        params = self.params
        scores = logits.clone()
        if params.repetition_penalty != 1.0:
            seen = self._ids(self._prompt.union(self._counts), scores)
            found = scores[seen]
            scores[seen] = torch.where(
                found > 0, found / params.repetition_penalty, found * params.repetition_penalty
            )
        if self._counts and (params.presence_penalty or params.frequency_penalty):
            seen = self._ids(self._counts, scores)
            counts = torch.tensor(list(self._counts.values()), dtype=scores.dtype, device=scores.device)
            scores[seen] -= params.presence_penalty + params.frequency_penalty * counts
        for token, bias in params.logit_bias.items():
            if 0 <= token < scores.shape[0]:
                scores[token] += bias
        for token, until in params.banned_until.items():
            if self.position < until and 0 <= token < scores.shape[0]:
                scores[token] = -math.inf
        if self._mask is not None:
            self._mask.mask(scores)
        return scores

    @staticmethod
    def _ids(tokens: Sequence[int] | frozenset[int] | dict[int, int], like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(list(tokens), dtype=torch.long, device=like.device)


class PromptScorer(Sampler):
    """Chooses the tokens it was given, whatever the logits say: what remains are their log-probabilities."""

    def __init__(self, tokens: Sequence[int], top_logprobs: int) -> None:
        super().__init__(SamplingParams(top_logprobs=top_logprobs))
        self._tokens = tokens

    def choose(self, logits: torch.Tensor) -> int:
        if not math.isfinite(float(logits.max())):
            raise BadTensorError("the logits hold NaN or infinity")
        return self._tokens[self.position]


def draw_token(scores: torch.Tensor, params: SamplingParams, position: int) -> int:
    """Draw from adjusted logits ([vocabulary]); temperature, min_p, top_p and top_k are applied here, in that order.

    Each token has an exponential waiting time; divided by its probability, the first to be over wins (the
    exponential race or Gumbel-max trick: Maddison, Tarlow and Minka, "A* Sampling", 2014). Another path or batch
    rounds the logits otherwise, by about 1e-5 in float32. That moves thousands of cumulated probabilities past a
    draw from them; here only two tokens that finish within the rounding of each other change places.
    """
    shares = torch.softmax(scores / params.temperature, dim=-1)
    if params.min_p > 0.0:
        shares = torch.where(shares < params.min_p * shares.max(), 0.0, shares)
    if params.top_p < 1.0:
        shares = _keep_top_p(shares, params.top_p)
    if 0 < params.top_k < shares.shape[0]:
        shares = _keep_only(shares, shares.topk(params.top_k).indices)
    return _first_to_finish(
        fractions(params.seed, params.choice, position, shares.shape[0]), shares.float().cpu().numpy()
    )


def _first_to_finish(fraction: npt.NDArray[np.float32], shares: npt.NDArray[np.float32]) -> int:
    """Return the token with the least -log(1 - fraction) / share; one without a share never finishes.

    -log(1 - x) is at least x, so only tokens whose fraction / share is below the finish of one of them can be it:
    logarithms are taken of a few tokens and not of the whole vocabulary.
    """
    with np.errstate(divide="ignore", over="ignore"):
        earliest = fraction / shares
    one = earliest.argmin()
    limit = max(earliest[one], _finish(fraction[one], shares[one]))  # for tiny ones rounding decides
    able = np.flatnonzero(earliest <= limit)
    return int(able[_finish(fraction[able], shares[able]).argmin()])


def _finish(fraction: npt.NDArray[np.float32], shares: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = -np.log1p(-fraction.astype(np.float64)) / shares
    return found


def _keep_top_p(shares: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the likeliest tokens up to and including the one that crosses ``top_p`` of what is left."""
    goal = top_p * float(shares.sum(dtype=torch.float64))
    size = min(_FIRST_CANDIDATES, shares.shape[0])
    while True:
        values, indices = shares.topk(size)
        values = values.double()
        before = values.cumsum(0) - values
        if size == shares.shape[0] or float(before[-1] + values[-1]) >= goal:
            kept = indices[before < goal]
            return _keep_only(shares, kept if len(kept) else indices[:1])
        size = min(size * 4, shares.shape[0])


def _keep_only(shares: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(shares).index_copy_(0, kept, shares[kept])


def _logprob(logits: torch.Tensor, token: int, top: int | None) -> TokenLogprob | None:
    if top is None:
        return None
    logprobs = torch.log_softmax(logits, dim=-1)
    best: tuple[tuple[int, float], ...] = ()
    if top > 0:
        values, indices = logprobs.topk(min(top, logprobs.shape[0]))
        best = tuple(zip(indices.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), best)


def sample_rows(
    logits: torch.Tensor, samplers: Sequence[Sampler], drafts: Sequence[tuple[int, ...]]
) -> list[tuple[list[int], list[TokenLogprob]] | EngineError]:
    """Sample for several answers at once: sampler i owns the next 1 + len(drafts[i]) rows of ``logits``.

    A row is sampled only if the drafts before it were what the rows before it gave. A sampler that fails does
    so alone.
    """
    best = best_of(logits) if any(sampler.plain_greedy for sampler in samplers) else []
    results: list[tuple[list[int], list[TokenLogprob]] | EngineError] = []
    start = 0
    for sampler, draft in zip(samplers, drafts, strict=True):
        rows = range(start, start + 1 + len(draft))
        start = rows.stop
        try:
            chosen = best[rows.start : rows.stop]
            results.append(_sample_one(logits[rows.start : rows.stop], sampler, draft, chosen))
        except EngineError as exc:
            results.append(exc)
    return results


def best_of(logits: torch.Tensor) -> list[int]:
    """Return each row's arg-max, NaN being the greatest. On the CPU by NumPy, which takes a tenth of torch's time."""
    found: list[int] = (logits.numpy() if logits.device.type == "cpu" else logits).argmax(-1).tolist()
    return found


def _sample_one(
    rows: torch.Tensor, sampler: Sampler, draft: tuple[int, ...], best: Sequence[int]
) -> tuple[list[int], list[TokenLogprob]]:
    """Sample rows [1 + len(draft), vocabulary] until one differs from its draft; ``best`` are their arg-maxes.

    A bad row ends it too: what was sampled before it is accepted, and a sampler never samples a position twice.
    """
    tokens: list[int] = []
    logprobs: list[TokenLogprob] = []
    for index, row in enumerate(rows):
        try:
            token, logprob = _sample_row(row, sampler, best[index] if best else None)
        except EngineError:
            if not tokens:
                raise
            break
        tokens.append(token)
        if logprob is not None:
            logprobs.append(logprob)
        if index < len(draft) and token != draft[index]:
            break
    return tokens, logprobs


def _sample_row(row: torch.Tensor, sampler: Sampler, best: int | None) -> tuple[int, TokenLogprob | None]:
    """Choose a token and accept it; ``best`` is the row's arg-max, if that is known. Raises EngineError."""
    if best is None or not sampler.plain_greedy:
        return sampler.sample(row)
    if not math.isfinite(float(row[best])):
        raise BadTensorError("the logits hold NaN or infinity")
    sampler.accept(best)
    return best, None
