"""The length control is GAIN-RL's controller over another order."""

import numpy as np

from gainrl_ray.config_curricula import GainConfig, LengthConfig
from gainrl_ray.curricula.gain import GainStrategy
from gainrl_ray.curricula.length import LengthStrategy
from gainrl_ray.types import SlotOutcome, StepOutcome


def test_the_same_order_gives_the_same_windows_as_gain() -> None:
    order = np.random.default_rng(0).permutation(500)
    gain = GainStrategy(GainConfig(sigma=20.0, mu_step_scale=50.0), order, seed=4)
    length = LengthStrategy(LengthConfig(sigma=20.0, mu_step_scale=50.0), order, seed=4)
    for step in range(5):
        assert np.array_equal(gain.select(step, 16), length.select(step, 16))
        outcome = StepOutcome(step=step, slots=(SlotOutcome(slot=0, row=0, completions=8, accuracy=0.9, angle=0.5),))
        gain.observe(outcome)
        length.observe(outcome)
        assert gain.metrics() == length.metrics()
    assert (length.signal, gain.signal) == ("length", "angle")
