"""The control that a signal has to beat: GAIN-RL's controller over prompts sorted by length."""

from typing import ClassVar

from gainrl_ray.curricula.base import Signal
from gainrl_ray.curricula.gain import GainStrategy


class LengthStrategy(GainStrategy):
    """`gain` in everything but its order: rank 0 is the shortest prompt (the longest with `descending`)."""

    name: ClassVar[str] = "length"
    signal: ClassVar[Signal] = "length"
