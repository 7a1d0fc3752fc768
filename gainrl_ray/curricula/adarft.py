"""AdaRFT (arXiv 2504.05520): the problems nearest to a target difficulty that follows accuracy."""

from bisect import bisect_left, bisect_right
from math import isfinite, tanh
from typing import Any, ClassVar

import numpy as np

from gainrl_ray.algo.permutation import Permutation
from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.config_curricula import AdarftConfig
from gainrl_ray.curricula.base import NO_COLUMNS, Column, Columns, Order, Signal
from gainrl_ray.curricula.known_problems import KnownProblems
from gainrl_ray.curricula.problem_strategy import ProblemStrategy, shown
from gainrl_ray.errors import ConfigError, DataError
from gainrl_ray.types import StepOutcome


class AdarftStrategy(ProblemStrategy):
    """Chooses by distance from the target T, after every step T <- clip(T + step_size tanh(sensitivity (R - target))).

    R is the step's mean accuracy; T and difficulties are in [0, 1].

    Source: AdaRFT, arXiv 2504.05520, with 0..1 for its 0..100. It takes the nearest problems, and so the same ones
    again and again while T stands still. Here a step's candidates are the `pool_windows` windows' worth nearest to T;
    of those the least often shown are taken, of them the nearest: as long as T stands still, none is shown again
    before all of the pool were. Of problems with one difficulty, random ones become candidates, others at each step.
    """

    name: ClassVar[str] = "adarft"
    signal: ClassVar[Signal] = "difficulty"
    needs: ClassVar[tuple[Column, ...]] = ("difficulty",)

    def __init__(self, config: AdarftConfig, order: Order, seed: int, columns: Columns = NO_COLUMNS) -> None:
        super().__init__(config, order, seed, columns)
        self._config: AdarftConfig = config
        self._target = config.start
        self._known = KnownProblems(self.size, {"visits": 0.0})

    def observe(self, outcome: StepOutcome) -> None:
        """Move the target by the step's accuracy, and count who was shown."""
        rows = shown(outcome).rows
        self._known.write(rows, visits=self._known.read("visits", rows) + 1)
        config = self._config
        move = config.step_size * tanh(config.accuracy_sensitivity * (outcome.accuracy - config.target_accuracy))
        self._target = min(max(self._target + move, 0.0), 1.0)

    def metrics(self) -> dict[str, float]:
        """`target_difficulty` in [0, 1], and `problems_shown`, each counted once."""
        return {"target_difficulty": self._target, "problems_shown": float(self._known.rows.size)}

    def _pick(self, step: int, count: int, avoided: np.ndarray) -> np.ndarray:
        ranks = self._pool(step, min(self.size, self._config.pool_windows * (count + avoided.size)))
        rows = self._rows(ranks)
        free = ~np.isin(rows, avoided)
        ranks, rows = ranks[free], rows[free]
        noise = coordinate_rng(self._seed, "nearest", step).random(rows.size)
        distance = np.abs(self._difficulty(rows) - self._target)
        chosen = np.lexsort((noise, distance, self._known.read("visits", rows)))[:count]
        return self._rows(np.sort(ranks[chosen]))

    def _pool(self, step: int, size: int) -> np.ndarray:
        """The `size` ranks nearest to the target, [size] int64; of a difficulty that is not wholly inside, random ones.

        Where rank r is nearer than rank r + size, so are all ranks between: halving finds the first such r.
        """
        first = bisect_left(
            range(self.size - size),
            True,
            key=lambda rank: self._target - self._at(rank) <= self._at(rank + size) - self._target,
        )
        ranks = np.arange(first, first + size)
        difficulty = self._difficulty(self._rows(ranks))
        if (np.diff(difficulty) < 0).any():
            raise DataError(
                f"ranks {first}..{first + size - 1} of the order do not rise in difficulty, as adarft needs it: "
                "sort the problems by the difficulty that it is given"
            )
        for edge in {difficulty[0], difficulty[-1]}:
            start = bisect_left(range(self.size), edge, key=self._at)
            stop = bisect_right(range(self.size), edge, key=self._at)
            inside = difficulty == edge
            tied = Permutation(stop - start, self._seed, "ties", step, start)
            ranks[inside] = start + tied(np.arange(np.count_nonzero(inside)))
        return ranks

    def _at(self, rank: int) -> float:
        return float(self._difficulty(self._rows(np.array([rank])))[0])

    def _state(self) -> dict[str, Any]:
        return {"target": self._target, "problems": self._known.state_dict()}

    def _restore(self, state: dict[str, Any]) -> None:
        target = state["target"]
        if not (isfinite(target) and 0.0 <= target <= 1.0):
            raise ConfigError(f"state of curriculum {self.name!r} has target {target}, outside 0..1")
        self._known.load(state["problems"])
        self._target = target
