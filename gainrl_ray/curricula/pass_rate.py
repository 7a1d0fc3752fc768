"""The control of static difficulty: GAIN-RL's controller over problems sorted by a measured pass rate."""

from typing import ClassVar

from gainrl_ray.curricula.base import Signal
from gainrl_ray.curricula.gain import GainStrategy


class PassRateStrategy(GainStrategy):
    """`gain` in everything but its order: rank 0 is the problem solved most often before training."""

    name: ClassVar[str] = "pass_rate"
    signal: ClassVar[Signal] = "pass_rate"
