"""Rank correlations with intervals: whether one figure of problems tells something of another, beyond a third."""

from dataclasses import dataclass

import numpy as np

from gainrl_ray.algo.angles import spearman
from gainrl_ray.algo.randomness import Coordinate, coordinate_rng

RESAMPLES = 1000
LEVEL = 0.95
_DETERMINED = 1e-9
"""A share of rank variance that is left no more than this is none: the partial correlation would be noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """A rank correlation with its bootstrap interval; all nan where it is not defined."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def partial_spearman(a: np.ndarray, b: np.ndarray, given: np.ndarray) -> float:
    """Rank correlation of a and b at a fixed `given`, in [-1, 1]; all [N].

    (r_ab - r_ac r_bc) / sqrt((1 - r_ac^2)(1 - r_bc^2)) of Spearman's correlations: that of what is left of the ranks
    after their least-squares lines over the ranks of `given`. A constant `given` takes nothing away. nan where a or b
    is constant or has the ranks of `given`, or their reverse.
    """
    r_ab, r_ac, r_bc = spearman(a, b), spearman(a, given), spearman(b, given)
    if np.isnan(r_ab):
        return r_ab
    if np.isnan(r_ac):  # a and b vary, so `given` does not
        return r_ab
    left = (1.0 - r_ac**2) * (1.0 - r_bc**2)
    return float(np.clip((r_ab - r_ac * r_bc) / np.sqrt(left), -1.0, 1.0)) if left > _DETERMINED else float("nan")


def bootstrap(
    a: np.ndarray, b: np.ndarray, seed: int, *coordinates: Coordinate, given: np.ndarray | None = None
) -> Correlation:
    """Spearman's correlation of a and b, partial when `given` one, with its interval of LEVEL; all [N].

    The interval is that of percentiles over RESAMPLES draws of N problems with replacement, keyed by (seed,
    coordinates). Draws in which it is not defined are left out.
    """
    rows = np.arange(len(a))

    def of(rows: np.ndarray) -> float:
        return spearman(a[rows], b[rows]) if given is None else partial_spearman(a[rows], b[rows], given[rows])

    value = of(rows)
    if np.isnan(value):
        return Correlation(value=value, low=value, high=value)
    rng = coordinate_rng(seed, "bootstrap", *coordinates)
    draws = np.array([of(rng.integers(0, len(rows), size=len(rows))) for _ in range(RESAMPLES)])
    low, high = np.nanquantile(draws, [(1.0 - LEVEL) / 2, (1.0 + LEVEL) / 2])
    return Correlation(value=value, low=float(low), high=float(high))
