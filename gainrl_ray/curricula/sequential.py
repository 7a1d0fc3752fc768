"""The dataset in its own order."""

from typing import ClassVar

import numpy as np

from gainrl_ray.curricula.base import FixedStrategy


class SequentialStrategy(FixedStrategy):
    """Row after row, and from the start again after the last; a window may span two passes."""

    name: ClassVar[str] = "sequential"

    def _ranks(self, step: int, count: int) -> np.ndarray:
        return (step * count + np.arange(count, dtype=np.int64)) % self.size
