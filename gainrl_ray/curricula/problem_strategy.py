"""What strategies share that learn about single problems and choose among them by that."""

from abc import abstractmethod
from typing import NamedTuple

import numpy as np

from gainrl_ray.curricula.base import NO_ROWS, Strategy
from gainrl_ray.errors import DataError
from gainrl_ray.types import StepOutcome


class Shown(NamedTuple):
    """What a step says of each problem; one that was shown twice stands once, with all its completions."""

    rows: np.ndarray  # [n] int64, distinct, rising
    completions: np.ndarray  # [n] float64
    successes: np.ndarray  # [n] float64

    @property
    def accuracy(self) -> np.ndarray:
        """[n] float64 in [0, 1]."""
        return self.successes / self.completions


class ProblemStrategy(Strategy):
    """Chooses rows by what is known of them; the same row never stands in two windows that are under way.

    Rows of windows that are not observed yet are left out, as long as others are left.
    """

    def refill(self, step: int, count: int, drawn: np.ndarray, planned: np.ndarray = NO_ROWS) -> np.ndarray:
        """The `count` rows that come next by the strategy's own law, fewer where fewer are left."""
        count = min(count, self.size - drawn.size)
        if count == 0:
            return NO_ROWS
        others = np.setdiff1d(planned, drawn)[: self.size - drawn.size - count]
        return self._pick(step, count, np.concatenate([drawn, others]))

    def _draw(self, step: int, count: int, planned: np.ndarray) -> np.ndarray:
        return self._pick(step, count, np.unique(planned)[: self.size - count])

    @abstractmethod
    def _pick(self, step: int, count: int, avoided: np.ndarray) -> np.ndarray:
        """`count` distinct rows, none of the distinct ones in `avoided`; N has count + avoided.size or more."""

    def _difficulty(self, rows: np.ndarray) -> np.ndarray:
        """The column of that name at `rows`, [n] float64 in [0, 1].

        Raises: DataError for a value that is none, with its row.
        """
        values = np.asarray(self._columns["difficulty"][rows], dtype=np.float64)
        wrong = np.flatnonzero(~((values >= 0.0) & (values <= 1.0)))
        if wrong.size:
            raise DataError(
                f"the difficulty of row {rows[wrong[0]]} is {values[wrong[0]]}, expected 0 to 1: "
                "measure or label every problem, or leave those without out of the dataset"
            )
        return values


def shown(outcome: StepOutcome) -> Shown:
    """A step's problems with what became of them."""
    rows, places = np.unique([slot.row for slot in outcome.slots], return_inverse=True)
    completions = np.array([slot.completions for slot in outcome.slots], dtype=np.float64)
    successes = completions * np.array([slot.accuracy for slot in outcome.slots])
    return Shown(rows.astype(np.int64), np.bincount(places, completions), np.bincount(places, np.rint(successes)))
