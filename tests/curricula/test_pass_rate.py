"""The control of static difficulty is GAIN-RL's controller over another order."""

import numpy as np
from every_strategy import build, outcome


def test_the_same_order_gives_the_same_windows_as_gain() -> None:
    order = np.random.default_rng(0).permutation(500)
    both = [build(name, order=order, size=500, sigma=20.0, mu_step_scale=50.0) for name in ("gain", "pass_rate")]
    for step in range(5):
        windows = [strategy.select(step, 16) for strategy in both]
        refills = [strategy.refill(step, 8, windows[0]) for strategy in both]
        assert np.array_equal(*windows) and np.array_equal(*refills)
        for strategy in both:
            strategy.observe(outcome(step, windows[0], 0.9))
        assert both[0].metrics() == both[1].metrics()


def test_it_begins_with_the_problems_solved_most_often() -> None:
    order = np.arange(1000)[::-1].copy()  # row 999 has the highest rate
    assert build("pass_rate", order=order, size=1000, sigma=10.0).select(0, 20).min() > 900
