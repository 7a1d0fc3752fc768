"""Gaussian windows: distinct ranks drawn around a centre, in time that does not grow with the number of ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor, log, sqrt

import numpy as np

_FLAT_SHARE = 0.13
_STEEP_SHARE = 0.025
_SPARSE = 4
_BITS = 53  # of a uniform number in [0, 1)


@dataclass(frozen=True, slots=True)
class Taken:
    """Ranks that were drawn before: how many, and which of given ranks, [n] int64 -> [n] bool."""

    count: int
    among: Callable[[np.ndarray], np.ndarray]


_NONE = Taken(0, lambda ranks: np.zeros(ranks.size, dtype=bool))


def draw_window(
    rng: np.random.Generator, *, mu: float, sigma: float, size: int, count: int, taken: Taken = _NONE
) -> np.ndarray:
    """`count` distinct ranks of 0..size-1 in rising order, [count] int64.

    The set is distributed as by drawing one rank after the other, without replacement, each with probability
    proportional to exp(-(rank - mu)^2 / (2 sigma^2)) among those left (what `choice(replace=False, p=...)` means).
    Those of `taken` were drawn before these, by the same law, and are not drawn again; size - taken.count or fewer
    are asked for.
    Weights are relative to the likeliest rank and in logarithms, so none underflows, wherever mu is.

    Time is in count, not in size or sigma. Where many more ranks have weight than are drawn, single ranks are drawn
    with replacement and repeats are dropped (`_rejected`); elsewhere every rank that can be drawn competes (`_raced`).
    Which of the two depends on the arguments only.
    """
    first, stop = _reach(mu, sigma, size, spare=0, exponent=_BITS * log(2.0))
    share = _FLAT_SHARE if 0 <= mu <= size - 1 else _STEEP_SHARE
    if share * (stop - first) >= _SPARSE * (count + taken.count):
        return _rejected(rng, mu, sigma, size, count, ranks=(first, stop), share=share, taken=taken)
    return _raced(rng, mu, sigma, size, count, taken)


def _rejected(
    rng: np.random.Generator,
    mu: float,
    sigma: float,
    size: int,
    count: int,
    ranks: tuple[int, int],
    share: float,
    taken: Taken = _NONE,
) -> np.ndarray:
    """The first `count` distinct ranks, not taken, of a sequence of independent ones, each drawn with its weight.

    Given the distinct ranks so far, the next new one of such a sequence is rank r with probability weight(r) over the
    sum of the weights of all others than those and the taken: exactly the next draw without replacement.

    An independent rank comes from proposing one of `ranks`, all alike, and accepting it with probability weight over
    largest weight. `ranks` leaves out only those whose relative weight is below 2^-53, which no uniform number in
    steps of 2^-53 accepts, but for 0.

    At least `share` of the proposals are accepted: with x the distance from the likeliest rank and X that of the
    edge, the relative weight is exp(-E g(x/X)) with E = 53 log 2 and g(t) = a t^2 + (1 - a) t, a = 1 where the
    likeliest rank is mu and a -> 0 as mu goes far outside. Its mean over t is at least (1 - e^-E) / E = 1/36.7, and
    sqrt(pi / E) / 2 = 0.146 at a = 1; an edge cut off by 0 or size - 1 leaves out lighter ranks only, and a sum
    over whole ranks of a falling function exceeds its integral. `ranks` has up to two more at its ends, since it is
    rounded outwards: hence shares a tenth lower than these. So the sum of the relative weights is at least _SPARSE
    times the ranks drawn and taken, and one that is accepted is new with probability 1 - 1/_SPARSE or more: rounds
    are few.
    """
    likeliest = _nearest(mu, size)
    drawn = np.empty(0, dtype=np.int64)
    while True:
        proposals = ceil(1.5 * (count - drawn.size) / share)
        proposed = rng.integers(*ranks, size=proposals)
        accepted = rng.random(proposals) < np.exp(-_log_odds(proposed, likeliest, mu, sigma))
        proposed = proposed[accepted]
        drawn = np.concatenate([drawn, proposed[~taken.among(proposed)]])
        _, firsts = np.unique(drawn, return_index=True)
        drawn = drawn[np.sort(firsts)]
        if drawn.size >= count:
            return np.sort(drawn[:count])


def _raced(
    rng: np.random.Generator, mu: float, sigma: float, size: int, count: int, taken: Taken = _NONE
) -> np.ndarray:
    """The `count` ranks, not taken, with the largest log weight plus Gumbel noise, which are such a draw too.

    Source: Gumbel top-k, arXiv 1903.06059. Ranks too far to be drawn in double precision get no noise: uniform noise
    comes in steps of 2^-53, so exponential noise is below e^4 and, unless 0, above e^-37. Each of the `count` ranks
    nearest to mu that are not taken has log(noise / weight) below 4 - its log weight; a rank whose log weight is 41
    less than the least of theirs stays above that and is never among the `count` smallest.
    """
    first, stop = _reach(mu, sigma, size, spare=count + taken.count, exponent=41.0)
    ranks = np.arange(first, stop)
    keys = _log_odds(ranks, _nearest(mu, size), mu, sigma)
    keys += _negated_gumbel(rng, keys.size)
    if taken.count:
        keys[taken.among(ranks)] = np.inf
    return np.sort(np.argpartition(keys, count - 1)[:count]) + first


def _log_odds(ranks: np.ndarray, likeliest: int, mu: float, sigma: float) -> np.ndarray:
    """Log of the likeliest rank's weight over each rank's, [n] float64, at least 0.

    Factored, since the squares of a far mu would lose their differences; in place, since fresh arrays of this size
    cost more than the arithmetic.
    """
    offset = (ranks - likeliest).astype(np.float64)
    odds = offset + 2.0 * (likeliest - mu)
    odds *= offset
    odds /= 2.0 * sigma * sigma
    return odds


def _negated_gumbel(rng: np.random.Generator, count: int) -> np.ndarray:
    """Logarithms of exponential noise, [count] float64."""
    noise = rng.random(count)
    np.negative(noise, out=noise)
    np.log1p(noise, out=noise)
    np.negative(noise, out=noise)
    # An exponential of exactly 0 has no logarithm.
    np.maximum(noise, np.finfo(np.float64).tiny, out=noise)
    return np.log(noise, out=noise)


def _reach(mu: float, sigma: float, size: int, *, spare: int, exponent: float) -> tuple[int, int]:
    """The half-open range of ranks whose weight is e^-exponent or more of that of a rank `spare` off the likeliest."""
    farthest = abs(mu - _nearest(mu, size)) + spare
    radius = sqrt(farthest**2 + 2.0 * exponent * sigma**2)
    return max(floor(mu - radius), 0), min(ceil(mu + radius) + 1, size)


def _nearest(mu: float, size: int) -> int:
    return min(max(round(mu), 0), size - 1)
