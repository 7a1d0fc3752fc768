import math

import numpy as np
import pytest

from gainrl_ray.algo.correlations import bootstrap, partial_spearman


def slow_ranks(values):
    """Mean ranks by counting."""
    return np.array([sum(x < value for x in values) + (sum(x == value for x in values) + 1) / 2 for value in values])


def slow_partial(a, b, given):
    """Pearson's correlation of what is left of the ranks after their least-squares lines over the ranks of `given`."""
    design = np.stack([np.ones(len(a)), slow_ranks(given)], axis=1)
    left = [ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0] for ranks in (slow_ranks(a), slow_ranks(b))]
    return float(left[0] @ left[1] / math.sqrt((left[0] @ left[0]) * (left[1] @ left[1])))


def test_partial_correlation_worked_by_hand():
    a, b, given = np.array([1, 2, 3, 4, 5]), np.array([20, 10, 40, 30, 50]), np.array([0.1, 0.2, 0.3, 0.5, 0.4])
    # Spearman by 1 - 6 sum d^2 / (n (n^2 - 1)): r_ab = 1 - 24/120, r_ac = 1 - 12/120, r_bc = 1 - 48/120.
    expected = (0.8 - 0.9 * 0.6) / math.sqrt((1 - 0.81) * (1 - 0.36))
    assert partial_spearman(a, b, given) == pytest.approx(expected)


def test_partial_correlation_with_ties_is_that_of_residuals():
    rng = np.random.default_rng(0)
    given = rng.integers(0, 5, 60)
    a, b = given + rng.integers(0, 4, 60), given - rng.integers(0, 9, 60)
    assert partial_spearman(a, b, given) == pytest.approx(slow_partial(a, b, given), abs=1e-12)


def test_what_is_constant_or_determined_has_no_partial_correlation():
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 1.0, 4.0, 3.0])
    assert math.isnan(partial_spearman(np.ones(4), b, a))
    assert math.isnan(partial_spearman(a, np.ones(4), b))
    assert math.isnan(partial_spearman(a, b, np.exp(a)))
    assert math.isnan(partial_spearman(a, b, -b))
    assert partial_spearman(a, b, np.ones(4)) == pytest.approx(0.6)  # d = 1 everywhere: 1 - 24/60


def test_the_interval_of_unrelated_figures_is_about_that_of_theory():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 200))
    found = bootstrap(a, b, 0, "a")
    assert found.low < found.value < found.high
    # 1.96 / sqrt(N - 1) to each side.
    assert found.high - found.low == pytest.approx(2 * 1.96 / math.sqrt(199), rel=0.15)
    assert not found.is_clear


def test_related_figures_are_clear_and_their_partial_correlation_is_not():
    rng = np.random.default_rng(2)
    given = rng.normal(size=150)
    a, b = given + 0.3 * rng.normal(size=150), given + 0.3 * rng.normal(size=150)
    assert bootstrap(a, b, 0, "a").is_clear
    partial = bootstrap(a, b, 0, "a", given=given)
    assert partial.low < 0 < partial.high
    assert partial.value == partial_spearman(a, b, given)


def test_draws_are_those_of_seed_and_coordinates():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 30))
    assert bootstrap(a, b, 0, "a") == bootstrap(a, b, 0, "a")
    assert bootstrap(a, b, 0, "a") != bootstrap(a, b, 1, "a")
    assert bootstrap(a, b, 0, "a") != bootstrap(a, b, 0, "b")


def test_a_figure_in_order_and_a_constant_one():
    a = np.arange(20.0)
    found = bootstrap(a, 2 * a, 0, "a")
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))
    found = bootstrap(a, np.zeros(20), 0, "a")
    assert np.isnan([found.value, found.low, found.high]).all()
    assert not found.is_clear


def test_draws_in_which_all_is_equal_are_left_out():
    # Of four problems one differs: 0.75^4 = 32 % of draws miss it.
    found = bootstrap(np.array([0.0, 0.0, 0.0, 1.0]), np.array([1.0, 2.0, 3.0, 4.0]), 0, "a")
    assert np.isfinite([found.low, found.high]).all()
