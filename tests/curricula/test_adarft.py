"""AdaRFT: how the target moves, which problems are nearest, and that they are not drawn again at once."""

from math import tanh

import numpy as np
import pytest
from every_strategy import build, outcome

from gainrl_ray.config_curricula import AdarftConfig
from gainrl_ray.curricula.adarft import AdarftStrategy
from gainrl_ray.errors import ConfigError, DataError


def _strategy(difficulty: np.ndarray, seed: int = 0, **settings) -> AdarftStrategy:
    order = np.argsort(difficulty, kind="stable")
    return AdarftStrategy(AdarftConfig(**settings), order, seed, {"difficulty": difficulty})


def test_the_target_moves_by_the_published_rule() -> None:
    strategy = build("adarft", start=0.2)
    for accuracy, target in [
        (0.8, 0.2 + 0.5 * 0.5370495669980353),  # tanh(2 * 0.3)
        (0.5, 0.2 + 0.5 * 0.5370495669980353),
        (0.0, 0.2 + 0.5 * 0.5370495669980353 - 0.5 * 0.7615941559557649),  # tanh(1)
        (1.0, 0.2 + 0.5 * 0.5370495669980353),
        (1.0, 0.2 + 0.5 * 0.5370495669980353 + 0.5 * 0.7615941559557649),
        (1.0, 1.0),
        (0.4, 1.0 + 0.5 * tanh(-0.2)),
    ]:
        strategy.observe(outcome(0, [3], accuracy))
        assert strategy.metrics()["target_difficulty"] == pytest.approx(target, abs=1e-12)
    for _ in range(5):
        strategy.observe(outcome(0, [3], 0.0))
    assert strategy.metrics()["target_difficulty"] == 0.0


def test_the_pool_is_shown_turn_by_turn_while_the_target_stands_still() -> None:
    strategy = _strategy(np.arange(17) / 16, start=0.5, pool_windows=2)  # exact, so that equal distances are equal
    windows = []
    for step in range(4):
        windows.append(set(strategy.select(step, 3).tolist()))
        strategy.observe(outcome(step, sorted(windows[-1]), 0.5))
    assert windows == [{7, 8, 9}, {5, 6, 10}, {7, 8, 9}, {5, 6, 10}]  # of 5 and 11, as far, the easier one


def test_a_moved_target_takes_the_nearest_that_were_shown_least() -> None:
    strategy = _strategy(np.arange(17) / 16, start=0.5, pool_windows=2)
    strategy.observe(outcome(0, [7, 8, 9], [1.0, 0.5, 0.5]))
    target = 0.5 + 0.5 * tanh(1 / 3)  # 0.6608: the six nearest are 8..13
    assert strategy.metrics()["target_difficulty"] == pytest.approx(target)
    assert strategy.select(1, 3).tolist() == [10, 11, 12]
    assert set(strategy.refill(1, 1, np.array([10, 11, 12])).tolist()) == {13}


def test_windows_are_those_of_a_sort_of_all_problems() -> None:
    rng = np.random.default_rng(0)
    for size, count, windows in ((40, 4, 3), (41, 8, 2), (40, 1, 1), (30, 9, 8)):
        difficulty, visits = rng.random(size), np.zeros(size)
        strategy = _strategy(difficulty, start=0.3, pool_windows=windows)
        for step in range(25):
            distance = np.abs(difficulty - strategy.metrics()["target_difficulty"])
            pool = sorted(range(size), key=lambda row: distance[row])[: windows * count]
            wanted = sorted(pool, key=lambda row: (visits[row], distance[row]))[:count]
            rows = strategy.select(step, count)
            assert set(rows.tolist()) == set(wanted)
            assert np.all(np.diff(difficulty[rows]) > 0)
            visits[rows] += 1
            strategy.observe(outcome(step, rows, rng.random()))


def test_problems_of_one_difficulty_are_drawn_alike() -> None:
    """Chi-square over 60 easiest problems of 90, 6 of them at each of 1,000 steps; 59 degrees of freedom."""
    strategy = _strategy(np.repeat([0.0, 0.5], [60, 30]), pool_windows=2)
    counts = np.zeros(60)
    for step in range(1000):
        counts[strategy.select(step, 6)] += 1
    assert counts.sum() == 6000
    assert ((counts - 100) ** 2 / 100).sum() < 98.3  # p = 0.001


def test_a_large_group_of_equals_is_gone_through() -> None:
    """While all fail, T stays at 0; the 400 easiest problems are all seen before many are seen often."""
    strategy, visits = _strategy(np.repeat([0.0, 0.5, 1.0], 400)), np.zeros(1200)
    for step in range(50):
        rows = strategy.select(step, 16)
        visits[rows] += 1
        strategy.observe(outcome(step, rows, 0.0))
    assert visits[400:].sum() == 0 and visits.sum() == 800
    assert (visits[:400] > 0).all() and visits.max() <= 4


def test_time_is_in_the_window_and_the_logarithm_of_the_dataset() -> None:
    class Counted:
        reads = 0

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            self.reads += rows.size
            return rows / 10**9

    for size in (10**4, 10**9):
        column = Counted()
        strategy = AdarftStrategy(AdarftConfig(start=0.4), range(size), 0, {"difficulty": column})  # pyright: ignore
        assert strategy.select(0, 32).size == 32
        assert column.reads <= 2 * 8 * 32 + 6 * 31


def test_an_order_that_does_not_rise_is_an_error() -> None:
    columns = {"difficulty": np.linspace(1.0, 0.0, 50)}
    with pytest.raises(DataError, match="do not rise in difficulty"):
        AdarftStrategy(AdarftConfig(), np.arange(50), 0, columns).select(0, 8)


@pytest.mark.parametrize("value", [-0.1, 1.5, np.inf])
def test_a_difficulty_outside_0_to_1_is_an_error(value: float) -> None:
    columns = {"difficulty": np.full(50, value)}
    with pytest.raises(DataError, match=r"difficulty of row \d+ is"):
        AdarftStrategy(AdarftConfig(), np.arange(50), 0, columns).select(0, 8)


def test_a_target_that_is_none_is_refused() -> None:
    strategy = build("adarft")
    state = strategy.state_dict()
    for target in (-0.5, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="target"):
            strategy.load_state_dict({**state, "target": target})
    assert strategy.state_dict() == state
