"""The plain baseline: shuffled passes over the dataset."""

from typing import ClassVar

import numpy as np

from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.curricula.base import FixedStrategy


class UniformStrategy(FixedStrategy):
    """Each pass is a new permutation, cut into windows: no problem comes twice within a pass.

    What is left at the end of a permutation, fewer rows than a window, is dropped, so that no window has a problem
    twice either; the next permutation drops others.
    """

    name: ClassVar[str] = "uniform"

    _memo: tuple[int, np.ndarray] | None = None

    def _ranks(self, step: int, count: int) -> np.ndarray:
        lap, place = divmod(step, self.size // count)
        return self._permutation(lap)[place * count : (place + 1) * count]

    def _permutation(self, lap: int) -> np.ndarray:
        """The permutation of a pass; the last one is kept, since a pass has many windows."""
        if self._memo is None or self._memo[0] != lap:
            self._memo = (lap, coordinate_rng(self._seed, "uniform", lap).permutation(self.size))
        return self._memo[1]
