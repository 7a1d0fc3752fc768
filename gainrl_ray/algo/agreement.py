"""Whether two implementations compute the same policy: their log-probabilities of the same tokens, up to rounding."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

MEAN_OVER_ROUNDING = 2.0
LARGEST_OVER_ROUNDING = 4.0
"""How far implementations may be apart, in units of what rounding errors do to one of them. Right ones are 0.6 to 0.9
apart in the mean: see model/README.md."""

LEAST_ALLOWED = {"float32": (1e-4, 1e-3), "bfloat16": (5e-3, 5e-2)}
"""Mean and largest difference, nats, that are always allowed: in float32 the order of a sum counts for more than the
rounding of its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far two implementations are apart over some tokens, nats; nan counts as infinitely far."""

    mean: float
    largest: float
    place: int  # of the largest difference among the tokens
    allowed_mean: float
    allowed_largest: float

    @property
    def holds(self) -> bool:
        """Whether rounding explains the differences."""
        return self.mean <= self.allowed_mean and self.largest <= self.allowed_largest


def agreement(
    found: ArrayLike, expected: ArrayLike, rounded: ArrayLike, *, dtype: str, tolerance: float | None = None
) -> Agreement:
    """The differences of `found` and `expected`, and what is allowed.

    Args:
        found, expected: [tokens] log-probabilities of two implementations, nats.
        rounded: [passes, tokens] those of the second one under random rounding errors; [0, tokens] for none.
        dtype: "float32" or "bfloat16", in which both compute.
        tolerance: largest allowed mean, and a tenth of the largest allowed difference, in the place of what `rounded`
            gives.

    The idea is that of random rounding (Parker, Monte Carlo Arithmetic, 1997): what errors of the size of a dtype's
    rounding do to a result says how far apart correct computations may be. In bfloat16 that differs by a factor of ten
    between models and texts, so that no fixed number separates rounding from wrong weights.
    """
    differences = _far(np.asarray(found, np.float64) - np.asarray(expected, np.float64))
    errors = np.abs(np.asarray(rounded, np.float64).reshape(-1, len(differences)) - np.asarray(expected, np.float64))
    least_mean, least_largest = LEAST_ALLOWED[dtype]
    if tolerance is not None:
        allowed = tolerance, 10 * tolerance
    elif errors.size:
        allowed = MEAN_OVER_ROUNDING * errors.mean(), LARGEST_OVER_ROUNDING * errors.max()
        allowed = max(least_mean, allowed[0]), max(least_largest, allowed[1])
    else:
        allowed = least_mean, least_largest
    return Agreement(
        mean=float(differences.mean()),
        largest=float(differences.max()),
        place=int(differences.argmax()),
        allowed_mean=float(allowed[0]),
        allowed_largest=float(allowed[1]),
    )


def _far(differences: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(differences), np.inf, np.abs(differences))
