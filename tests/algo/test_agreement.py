"""Differences of log-probabilities against what rounding explains, by hand."""

import math

import numpy as np
import pytest

from gainrl_ray.algo.agreement import agreement

EXPECTED = [-1.0, -2.0, -3.0, -4.0]


def test_differences_and_limits_are_those_worked_out_by_hand() -> None:
    rounded = [[-1.1, -2.1, -3.1, -4.1], [-1.3, -2.0, -2.9, -4.0]]  # 0.1 0.1 0.1 0.1 and 0.3 0 0.1 0: mean 0.1
    result = agreement([-1.0, -2.2, -3.0, -3.6], EXPECTED, rounded, dtype="bfloat16")
    assert math.isclose(result.mean, 0.15)
    assert math.isclose(result.largest, 0.4)
    assert result.place == 3
    assert math.isclose(result.allowed_mean, 0.2)
    assert math.isclose(result.allowed_largest, 1.2)
    assert result.holds


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        ([-1.2, -2.2, -3.2, -4.2], True),  # mean 0.2, as much as is allowed
        ([-1.2, -2.2, -3.2, -4.3], False),  # the mean alone is too large
        ([-1.0, -2.0, -3.0, -4.5], False),  # one token alone
        ([-1.0, math.nan, -3.0, -4.0], False),
        ([-1.0, -math.inf, -3.0, -4.0], False),
    ],
)
def test_the_mean_and_the_largest_are_each_looked_at(found: list[float], holds: bool) -> None:
    rounded = [[value - 0.100001 for value in EXPECTED]]  # allows 0.2 and 0.4
    assert agreement(found, EXPECTED, rounded, dtype="bfloat16").holds is holds


@pytest.mark.parametrize(("dtype", "mean", "largest"), [("float32", 1e-4, 1e-3), ("bfloat16", 5e-3, 5e-2)])
def test_errors_that_are_next_to_none_leave_the_least_limits(dtype: str, mean: float, largest: float) -> None:
    for rounded in ([], [[value + 1e-9 for value in EXPECTED]]):
        result = agreement(EXPECTED, EXPECTED, rounded, dtype=dtype)
        assert (result.allowed_mean, result.allowed_largest) == (mean, largest)
        assert result.holds


def test_a_tolerance_takes_the_place_of_what_is_measured() -> None:
    rounded = np.zeros((1, 4))  # explains several nats
    result = agreement([-1.0, -2.0, -3.0, -4.05], EXPECTED, rounded, dtype="float32", tolerance=0.01)
    assert (result.allowed_mean, result.allowed_largest) == (0.01, 0.1)
    assert not result.holds
    assert agreement([-1.0, -2.0, -3.0, -4.03], EXPECTED, rounded, dtype="float32", tolerance=0.01).holds
