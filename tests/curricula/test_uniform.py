"""Shuffled passes."""

import numpy as np

from gainrl_ray.algo.permutation import Permutation
from gainrl_ray.config_curricula import UniformConfig
from gainrl_ray.curricula.uniform import UniformStrategy


def _strategy(size: int, seed: int = 0) -> UniformStrategy:
    return UniformStrategy(UniformConfig(), np.arange(size)[::-1], seed)


def test_a_pass_shows_every_problem_once() -> None:
    strategy = _strategy(12)
    for lap in range(3):
        rows = np.concatenate([strategy.select(lap * 3 + place, 4) for place in range(3)])
        assert sorted(rows.tolist()) == list(range(12))


def test_passes_differ_and_draws_are_pure() -> None:
    strategy = _strategy(1000)
    windows = {step: strategy.select(step, 100).tolist() for step in (0, 10, 9, 20)}
    assert len({tuple(window) for window in windows.values()}) == 4
    for step, window in windows.items():
        assert _strategy(1000).select(step, 100).tolist() == window
        assert _strategy(1000, seed=1).select(step, 100).tolist() != window


def test_no_window_has_a_problem_twice_when_the_size_does_not_divide() -> None:
    strategy = _strategy(10)
    windows = [strategy.select(step, 4) for step in range(40)]
    assert all(len(set(window.tolist())) == 4 for window in windows)
    assert all(len(np.unique(np.concatenate(windows[2 * lap : 2 * lap + 2]))) == 8 for lap in range(20))
    assert set(np.concatenate(windows).tolist()) == set(range(10))


def test_every_problem_is_equally_likely() -> None:
    strategy = _strategy(10)
    counts = np.bincount(np.concatenate([strategy.select(step, 4) for step in range(1500)]), minlength=10)
    assert ((counts - 600) ** 2 / 600).sum() < 27.9  # p = 0.001 at 9 degrees of freedom


def test_rows_are_those_of_the_computed_permutation() -> None:
    """Step 7 of 3 windows a pass is the second window of the third pass."""
    expected = 11 - Permutation(12, 6, "uniform", 2)(np.arange(4, 8))
    assert _strategy(12, seed=6).select(7, 4).tolist() == expected.tolist()


def test_a_window_of_a_huge_dataset_is_drawn_at_once() -> None:
    strategy = UniformStrategy(UniformConfig(), range(10**15), seed=0)
    rows = np.concatenate([strategy.select(step, 1000) for step in (0, 1, 10**12 - 1, 10**12, 10**13)])
    assert len(set(rows.tolist())) == 5000
    assert np.bincount(rows // 10**14, minlength=10).min() > 400  # 500 on average, 4.7 standard deviations
