"""The plain baseline: shuffled passes over the dataset."""

from typing import ClassVar

import numpy as np

from gainrl_ray.algo.permutation import Permutation
from gainrl_ray.curricula.base import FixedStrategy


class UniformStrategy(FixedStrategy):
    """Each pass is a new permutation, cut into windows: no problem comes twice within a pass.

    What is left at the end of a permutation, fewer rows than a window, is dropped, so that no window has a problem
    twice either; the next permutation drops others. Permutations are computed, so time does not grow with N.
    """

    name: ClassVar[str] = "uniform"

    def _ranks(self, step: int, count: int) -> np.ndarray:
        lap, place = divmod(step, self.size // count)
        positions = np.arange(place * count, (place + 1) * count, dtype=np.int64)
        return Permutation(self.size, self._seed, "uniform", lap)(positions)
