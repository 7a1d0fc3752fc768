"""Anyone's order: GAIN-RL's controller over one that comes from a file."""

from typing import ClassVar

from gainrl_ray.curricula.base import Signal
from gainrl_ray.curricula.gain import GainStrategy


class ExternalStrategy(GainStrategy):
    """`gain` in everything but its order: rank 0 is the first problem of the file."""

    name: ClassVar[str] = "external"
    signal: ClassVar[Signal] = "external"
