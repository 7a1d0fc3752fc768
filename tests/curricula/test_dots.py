"""DOTS: which problems are references, the law of the draw, and that predictions find what is looked for."""

import itertools

import numpy as np
import pytest
from every_strategy import build, columns, outcome

from gainrl_ray.algo.likeness import Likeness
from gainrl_ray.config_curricula import DotsConfig
from gainrl_ray.curricula.dots import DotsStrategy
from gainrl_ray.errors import ConfigError


def _strategy(size: int, seed: int = 0, **settings) -> DotsStrategy:
    return DotsStrategy(DotsConfig(**settings), range(size), seed, columns(size))


def test_the_first_windows_are_drawn_from_all_alike() -> None:
    """Chi-square over 40 rows, 4,000 draws: 39 degrees of freedom."""
    strategy, counts = _strategy(40), np.zeros(40)
    strategy.observe(outcome(0, range(7), 0.5))  # seven predict nothing yet
    for step in range(1000):
        counts[strategy.select(step, 4)] += 1
    assert ((counts - 100) ** 2 / 100).sum() < 72.1  # p = 0.001


def test_references_are_the_problems_shown_last() -> None:
    strategy = _strategy(100, reference_size=8)
    strategy.observe(outcome(0, range(1, 7), 0.25))
    assert strategy.metrics() == {"references": 6.0}
    strategy.observe(outcome(1, [9, 2, 8, 7], [1.0, 0.5, 0.0, 0.75]))
    assert strategy._last == {3: 0.25, 4: 0.25, 5: 0.25, 6: 0.25, 2: 0.5, 7: 0.75, 8: 0.0, 9: 1.0}
    assert list(strategy._last) == [3, 4, 5, 6, 2, 7, 8, 9] and strategy.metrics()["references"] == 8.0


def test_the_draw_has_the_stated_chances() -> None:
    """Pairs of 6 candidates, one after the other without replacement, by enumeration; no share for references."""
    strategy = _strategy(14, reference_share=0.0, tau=0.2, pool_windows=7)
    known = np.arange(8, 14)
    strategy.observe(outcome(0, [*known, 6, 7], [0.1, 0.4, 0.5, 0.9, 0.3, 0.2, 0.8, 0.6]))
    embedding, accuracy = columns(14)["embedding"], np.array([0.8, 0.6, 0.1, 0.4, 0.5, 0.9, 0.3, 0.2])
    predicted = Likeness(embedding[np.arange(6, 14)], accuracy).predict(embedding)
    weights = np.exp(-np.abs(predicted - 0.5) / 0.2)
    expected: dict[tuple[int, int], float] = {}
    for first, second in itertools.permutations(range(14), 2):
        chance = weights[first] / weights.sum() * weights[second] / (weights.sum() - weights[first])
        key = (min(first, second), max(first, second))
        expected[key] = expected.get(key, 0.0) + chance
    counts = dict.fromkeys(expected, 0)
    for step in range(1500):
        counts[tuple(sorted(strategy.select(step, 2).tolist()))] += 1  # pyright: ignore[reportArgumentType]
    statistic = sum((counts[key] - 1500 * chance) ** 2 / (1500 * chance) for key, chance in expected.items())
    assert len(expected) == 91 and statistic < 137.2  # p = 0.001 at 90 degrees of freedom


def test_a_share_of_every_window_is_drawn_from_all_alike() -> None:
    """Chi-square of the first quarter of 600 windows over 50 rows, whatever is predicted: 49 degrees of freedom."""
    strategy, counts = _strategy(50), np.zeros(50)
    strategy.observe(outcome(0, range(0, 50, 2), columns(50)["difficulty"][::2]))
    for step in range(600):
        counts[strategy.select(step, 20)[:5]] += 1
    assert ((counts - 60) ** 2 / 60).sum() < 85.4  # p = 0.001


def test_predictions_bring_problems_near_the_target() -> None:
    """Accuracy falls with the row; what is not a reference is near 0.5 after one window."""
    strategy, truth = _strategy(2000, tau=0.01), np.linspace(1.0, 0.0, 2000)
    rows = strategy.select(0, 64)
    assert np.abs(truth[rows] - 0.5).mean() > 0.2
    for step in range(4):
        strategy.observe(outcome(step, rows, np.rint(8 * truth[rows]) / 8))
        rows = strategy.select(step + 1, 64)
        assert np.abs(truth[rows[16:]] - 0.5).mean() < 0.12
        assert np.abs(truth[rows[:16]] - 0.5).mean() > 0.15
    assert strategy.metrics()["reference_error"] < 0.1


def test_a_state_that_does_not_fit_is_refused() -> None:
    strategy = build("dots")
    strategy.observe(outcome(0, [1, 2], 0.5))
    state = strategy.state_dict()
    for wrong in ({"rows": [1, 40]}, {"rows": [1]}, {"accuracy": [0.5, float("nan")]}, {"rows": [-1, 2]}):
        with pytest.raises(ConfigError, match="start a new run"):
            strategy.load_state_dict({**state, **wrong})
    assert strategy.state_dict() == state
