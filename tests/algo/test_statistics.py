"""Intervals and times to a target against hand-worked values, other formulas and full enumeration."""

import math
from itertools import product

import numpy as np
import pytest

from gainrl_ray.algo.statistics import (
    Interval,
    TimeToTarget,
    mean_interval,
    paired_difference,
    paired_ratio,
    t_probability,
    t_quantile,
    time_to_target,
)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227)]
)
def test_quantiles_of_students_t_are_those_of_the_printed_tables(degrees: int, quantile: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(quantile, rel=3e-6)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 6, 7, 12])
def test_the_probability_is_the_integral_of_the_density(degrees: int) -> None:
    scale = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
    points = np.linspace(0.0, 1.7, 20_001)
    density = scale * (1 + points**2 / degrees) ** (-(degrees + 1) / 2)
    area = float(((density[1:] + density[:-1]) / 2 * np.diff(points)).sum())
    assert t_probability(1.7, degrees) == pytest.approx(0.5 + area, abs=1e-8)
    assert t_probability(0.0, degrees) == 0.5


def test_the_interval_of_a_mean_is_students() -> None:
    found = mean_interval([1.0, 2.0, 3.0])
    assert found == pytest.approx((2.0, 2.0 - 4.302653 / math.sqrt(3), 2.0 + 4.302653 / math.sqrt(3)), abs=1e-5)
    assert mean_interval([1.0, 2.0, 3.0], least=0.0, most=4.0)[1:] == (0.0, 4.0)
    assert mean_interval([0.5, 0.5]) == Interval(0.5, 0.5, 0.5)
    alone = mean_interval([0.5])
    assert alone.estimate == 0.5 and math.isnan(alone.low) and math.isnan(alone.high)


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_interval_of_a_mean_holds_the_truth_in_95_of_100_cases(seeds: int) -> None:
    samples = np.random.default_rng(3).normal(7.0, 2.0, size=(4000, seeds))
    held = [found.low <= 7.0 <= found.high for found in map(mean_interval, samples.tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_five_seeds_are_resampled_in_every_way() -> None:
    ours, theirs = [0.61, 0.55, 0.7, 0.66, 0.6], [0.5, 0.58, 0.52, 0.6, 0.49]
    draws = list(product(range(5), repeat=5))
    means = [np.mean([ours[place] - theirs[place] for place in draw]) for draw in draws]
    low, high = np.quantile(means, [0.025, 0.975])
    assert paired_difference(ours, theirs) == pytest.approx((0.43 / 5, low, high))
    ratios = [sum(ours[p] for p in draw) / sum(theirs[p] for p in draw) for draw in draws]
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert paired_ratio(ours, theirs) == pytest.approx((3.12 / 2.69, low, high))


def test_a_bootstrap_of_5_seeds_holds_the_truth_in_84_of_100_cases() -> None:
    samples = np.random.default_rng(4).normal(1.0, 2.0, size=(600, 5))
    held = [found.low <= 1.0 <= found.high for found in (paired_difference(row, np.zeros(5)) for row in samples)]
    assert np.mean(held) == pytest.approx(0.84, abs=0.05)


def test_many_seeds_are_resampled_by_draws_that_can_be_repeated() -> None:
    rng = np.random.default_rng(5)
    ours, theirs = rng.normal(1.0, 1.0, 40).tolist(), rng.normal(0.0, 1.0, 40).tolist()
    found = paired_difference(ours, theirs)
    difference = np.subtract(ours, theirs)
    error = float(difference.std() / math.sqrt(40))
    assert found == paired_difference(ours, theirs) != paired_difference(ours, theirs, seed=1)
    assert found.low == pytest.approx(difference.mean() - 1.96 * error, abs=0.03)
    assert found.high == pytest.approx(difference.mean() + 1.96 * error, abs=0.03)


def test_pairs_take_out_what_a_seed_does_to_both() -> None:
    theirs = [0.1, 0.5, 0.9, 0.3, 0.7]
    found = paired_difference([value + 0.05 for value in theirs], theirs)
    assert found == pytest.approx((0.05, 0.05, 0.05))


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_few_seeds_have_no_bootstrap_interval_and_nothing_no_ratio(seeds: int) -> None:
    ours = [0.25, 0.75, 0.25, 0.75][:seeds]
    mean = sum(ours) / seeds
    for found, estimate in (
        (paired_difference(ours, [0.0] * seeds), mean),
        (paired_ratio(ours, [2.0] * seeds), mean / 2),
    ):
        assert found is not None and found.estimate == pytest.approx(estimate)
        assert math.isnan(found.low) and math.isnan(found.high)
    assert paired_ratio([1.0, 2.0], [0.0, 4.0]) is None, "the resample of the first seed alone divides by 0"


@pytest.mark.parametrize(
    ("accuracies", "target", "time"),
    [
        ([0.1, 0.3, 0.5], 0.4, TimeToTarget(15.0, True)),
        ([0.1, 0.3, 0.5], 0.5, TimeToTarget(20.0, True)),
        ([0.1, 0.3, 0.5], 0.3, TimeToTarget(10.0, True)),
        ([0.1, 0.3, 0.5], 0.1, TimeToTarget(0.0, True)),
        ([0.1, 0.3, 0.5], 0.51, TimeToTarget(20.0, False)),
        ([0.1, 0.6, 0.2], 0.35, TimeToTarget(5.0, True)),  # the first time counts
        ([0.4, 0.2, 0.6], 0.5, TimeToTarget(17.5, True)),
    ],
)
def test_the_target_is_reached_on_the_line_between_evaluations(
    accuracies: list[float], target: float, time: TimeToTarget
) -> None:
    found = time_to_target([0.0, 10.0, 20.0], accuracies, target)
    assert found.reached == time.reached and found.value == pytest.approx(time.value)
