"""The dataset's own order."""

import numpy as np

from gainrl_ray.config_curricula import SequentialConfig
from gainrl_ray.curricula.sequential import SequentialStrategy


def test_rows_follow_the_order_and_start_again() -> None:
    strategy = SequentialStrategy(SequentialConfig(), np.arange(5), seed=0)
    assert [strategy.select(step, 2).tolist() for step in range(4)] == [[0, 1], [2, 3], [4, 0], [1, 2]]


def test_the_order_handed_in_is_the_order_shown() -> None:
    strategy = SequentialStrategy(SequentialConfig(), np.array([2, 0, 1]), seed=0)
    assert strategy.select(0, 3).tolist() == [2, 0, 1]
    assert strategy.select(10**12, 2).tolist() == [1, 2]
