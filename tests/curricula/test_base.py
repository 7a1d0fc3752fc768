"""What every strategy inherits."""

import numpy as np
import pytest

from gainrl_ray.config_curricula import SequentialConfig, UniformConfig
from gainrl_ray.curricula.registry import build_strategy


@pytest.mark.parametrize("config", [UniformConfig(), SequentialConfig()])
def test_refill_gives_new_rows_until_none_is_left(config):
    strategy = build_strategy(config, order=range(50), seed=3)
    drawn = strategy.select(2, 16)
    for count in (16, 10, 16, 4):
        more = strategy.refill(2, count, drawn)
        assert more.size == min(count, 50 - drawn.size)
        drawn = np.concatenate([drawn, more])
    assert sorted(drawn.tolist()) == list(range(50))


def test_refill_depends_on_seed_and_step_alone():
    drawn = np.arange(5)
    refills = [
        build_strategy(UniformConfig(), order=range(1000), seed=seed).refill(step, 20, drawn).tolist()
        for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert refills[0] == refills[1]
    assert len({tuple(rows) for rows in refills}) == 3


def test_refilled_rows_are_uniform():
    """Chi-square over 40 rows, 4,000 draws outside the window: 39 degrees of freedom, 99.99 % below 80."""
    strategy = build_strategy(UniformConfig(), order=np.arange(40)[::-1].copy(), seed=0)
    counts = np.zeros(40)
    for step in range(1000):
        drawn = strategy.select(step, 8)
        np.add.at(counts, strategy.refill(step, 4, drawn), 1)
    expected = counts.sum() / 40
    assert counts.sum() == 4000
    assert ((counts - expected) ** 2 / expected).sum() < 80
