"""Hidden states and spans to angle concentration (GAIN-RL, arXiv 2506.02281), in time linear in the prompt."""

import numpy as np
import torch
from torch import Tensor


def angle_concentration(
    hidden: Tensor, prefix_stop: Tensor, question_stop: Tensor, *, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """C_intra and C_inter of each row, two [batch] float64 tensors in [-1, 1].

    hidden: [batch, seq, hidden_size], any float type; prefix_stop, question_stop, start: [batch] positions in the
    sequence. The prefix is [start, prefix_stop), the question [prefix_stop, question_stop); `start` is the first
    real position of a left-padded row and 0 when not given. What stands outside both spans has no effect.

    C_intra is the mean cosine over all pairs of question tokens, each token with itself included; C_inter that
    over all pairs of a question and a prefix token, 0 without a prefix. With unit vectors u these are
    |sum_Q u|^2 / q^2 and (sum_Q u).(sum_P u) / (q p): no matrix of pairs is built. Unit vectors are float32, sums
    float64. A state of length zero has no direction and counts as a cosine of 0 with everything.

    Raises: ValueError for an empty question, or spans outside the sequence.

    Source: GAIN-RL, section "angle concentration". Departures from the released code: spans come from the caller
    instead of the constants 110 and -6, both terms weigh 1 (there 1:8), the full square is averaged instead of a
    slice of a masked triangle, vectors are normalised over features.
    """
    first = torch.zeros_like(prefix_stop) if start is None else start
    first, prefix_stop, question_stop = (stop.to(hidden.device) for stop in (first, prefix_stop, question_stop))
    _check_spans(hidden.shape[1], first, prefix_stop, question_stop)
    question = _span_sums(hidden, prefix_stop, question_stop)
    prefix = _span_sums(hidden, first, prefix_stop)
    return concentration_of_sums(question, prefix, question_stop - prefix_stop, prefix_stop - first)


def concentration_of_sums(
    question_sum: Tensor, prefix_sum: Tensor, question_tokens: Tensor, prefix_tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """C_intra and C_inter, two [...] float64 tensors, from sums of unit vectors; C_inter is 0 without a prefix.

    question_sum, prefix_sum: [..., hidden_size] float64, of `unit_sums`; question_tokens (at least 1),
    prefix_tokens: [...]. For the prefix shared by many prompts one sum serves all.
    """
    questions, prefixes = question_tokens.double(), prefix_tokens.double()
    c_intra = (question_sum * question_sum).sum(dim=-1) / questions.square()
    c_inter = (question_sum * prefix_sum).sum(dim=-1) / (questions * prefixes.clamp(min=1))
    return c_intra, c_inter


def unit_sums(states: Tensor, lengths: Tensor) -> Tensor:
    """Sums of the unit vectors of runs of hidden states, [runs, hidden_size] float64; zeros for an empty run.

    states: [tokens, hidden_size], any float type, the runs one after the other; lengths: [runs] int64, in all the
    number of tokens. Unit vectors are float32; a state of zeros adds nothing. One pass on the states' device, each run
    added up from its first to its last token, so that what stands in other runs changes no bit.
    """
    states = states.float()
    # First by the largest feature: squares of very small or large states leave float32's range.
    states = states / _or_one(states.abs().amax(dim=1, keepdim=True))
    units = (states / _or_one(states.norm(dim=1, keepdim=True))).double()
    return torch.segment_reduce(units, "sum", lengths=lengths.to(units.device), axis=0, initial=0.0)


def without_diagonal(c_intra: np.ndarray, question_tokens: np.ndarray) -> np.ndarray:
    """C_intra over pairs of different question tokens only, from the stored value: (q * c_intra - 1) / (q - 1).

    c_intra, question_tokens: [N]. A question of one token has no such pair; its value is 0, no concentration.
    The diagonal adds (1 - mean cosine) / q, which favours short questions.
    """
    tokens = np.asarray(question_tokens, dtype=np.float64)
    values = (tokens * np.asarray(c_intra, dtype=np.float64) - 1.0) / np.maximum(tokens - 1.0, 1.0)
    return np.where(tokens > 1, values, 0.0)


def length_residual(score: np.ndarray, prompt_tokens: np.ndarray) -> np.ndarray:
    """What is left of score after its least-squares line over log(prompt_tokens); [N] float64 with mean 0.

    score: [N]; prompt_tokens: [N], at least 1. With all prompts of one length this is the score minus its mean.
    """
    values = np.asarray(score, dtype=np.float64)
    length = np.log(np.asarray(prompt_tokens, dtype=np.float64))
    values, length = values - values.mean(), length - length.mean()
    spread = float(length @ length)
    return values - length * (float(length @ values) / spread) if spread > 0 else values


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two [N] arrays in [-1, 1], ties at their mean rank; nan when either is constant."""
    rank_a, rank_b = (_mean_ranks(np.asarray(values)) for values in (a, b))
    rank_a, rank_b = rank_a - rank_a.mean(), rank_b - rank_b.mean()
    spread = float(np.sqrt((rank_a @ rank_a) * (rank_b @ rank_b)))
    return float(rank_a @ rank_b) / spread if spread > 0 else float("nan")


def _span_sums(hidden: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """`unit_sums` of positions [start, stop) of each row, [batch, hidden_size] float64."""
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    within = (positions >= start[:, None]) & (positions < stop[:, None])
    return unit_sums(hidden[within], stop - start)


def _or_one(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _check_spans(length: int, start: Tensor, prefix_stop: Tensor, question_stop: Tensor) -> None:
    valid = (start >= 0) & (start <= prefix_stop) & (prefix_stop < question_stop) & (question_stop <= length)
    if not bool(valid.all()):
        row = int((~valid).nonzero()[0, 0])
        raise ValueError(
            f"row {row}: start {int(start[row])}, prefix_stop {int(prefix_stop[row])}, question_stop "
            f"{int(question_stop[row])} in a sequence of {length}: need 0 <= start <= prefix_stop < question_stop <= "
            "the sequence's length"
        )


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value from 1, ties at their mean rank, [N] float64."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]
