"""DOTS (arXiv 2506.05316): problems whose difficulty, predicted from like ones shown lately, is nearest the target."""

from typing import Any, ClassVar

import numpy as np

from gainrl_ray.algo.likeness import Likeness
from gainrl_ray.algo.permutation import Permutation
from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.config_curricula import DotsConfig
from gainrl_ray.curricula.base import NO_COLUMNS, Column, Columns, Order, Signal
from gainrl_ray.curricula.problem_strategy import ProblemStrategy, shown
from gainrl_ray.errors import ConfigError, DataError
from gainrl_ray.types import StepOutcome

LEAST_REFERENCES = 8
"""From fewer problems nothing is predicted."""


class DotsStrategy(ProblemStrategy):
    """Draws a share of each window from all problems alike, the rest with weights exp(-|predicted - target| / tau).

    Predictions (`algo.likeness`) are of the accuracy of random candidates, from the problems shown last; the draw is
    one after the other without replacement (Gumbel top-k).

    Source: DOTS, arXiv 2506.05316. Departures: every problem shown is a reference, and those drawn as such are
    trained on too (the code throws their rollouts away); they are drawn with each step, not for each second one;
    candidates are `pool_windows` windows' worth, so that time does not grow with N; embeddings are used as they are.
    """

    name: ClassVar[str] = "dots"
    signal: ClassVar[Signal] = "none"
    needs: ClassVar[tuple[Column, ...]] = ("embedding",)

    def __init__(self, config: DotsConfig, order: Order, seed: int, columns: Columns = NO_COLUMNS) -> None:
        super().__init__(config, order, seed, columns)
        self._config: DotsConfig = config
        self._last: dict[int, float] = {}  # accuracy by row, the one shown last at the end
        self._fitted: Likeness | None = None  # to those, once it was asked for

    def observe(self, outcome: StepOutcome) -> None:
        """Keep the problems shown last."""
        seen = shown(outcome)
        for row, accuracy in zip(seen.rows.tolist(), seen.accuracy.tolist(), strict=True):
            self._last.pop(row, None)
            self._last[row] = accuracy
        for row in list(self._last)[: -self._config.reference_size]:
            del self._last[row]
        self._fitted = None

    def metrics(self) -> dict[str, float]:
        """`references`, how many there are; of predictions of each from the others `reference_error`, root mean
        square, and the `likeness_width` fitted; these two as soon as there are predictions."""
        metrics = {"references": float(len(self._last))}
        if self._predicts:
            likeness = self._likeness()
            metrics |= {"reference_error": likeness.error, "likeness_width": likeness.width}
        return metrics

    @property
    def _predicts(self) -> bool:
        return len(self._last) >= LEAST_REFERENCES

    def _pick(self, step: int, count: int, avoided: np.ndarray) -> np.ndarray:
        alike = round(self._config.reference_share * count) if self._predicts else count
        drawn = self._shuffled("reference", step, alike, avoided)
        avoided = np.concatenate([avoided, drawn])
        pool = self._shuffled("pool", step, self._config.pool_windows * (count - alike), avoided)
        if not pool.size:
            return drawn
        distance = np.abs(self._likeness().predict(self._embedding(pool)) - self._config.target_accuracy)
        keys = coordinate_rng(self._seed, "preference", step, avoided.size).gumbel(size=pool.size)
        keys -= distance / self._config.tau
        chosen = np.argpartition(-keys, count - alike - 1)[: count - alike]
        return np.concatenate([drawn, pool[chosen]])

    def _shuffled(self, purpose: str, step: int, count: int, avoided: np.ndarray) -> np.ndarray:
        """The first `count` rows of a shuffle that are not avoided, or all there are."""
        places = np.arange(min(self.size, count + avoided.size))
        rows = Permutation(self.size, self._seed, purpose, step)(places)
        return rows[~np.isin(rows, avoided)][:count]

    def _likeness(self) -> Likeness:
        if self._fitted is None:
            references, accuracy = np.array(list(self._last)), np.array(list(self._last.values()))
            self._fitted = Likeness(self._embedding(references), accuracy)
        return self._fitted

    def _embedding(self, rows: np.ndarray) -> np.ndarray:
        """[n, size]. Raises: DataError for one that is not finite, with its row."""
        vectors = np.asarray(self._columns["embedding"][rows])
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if wrong.size:
            raise DataError(f"the embedding of row {rows[wrong[0]]} is not finite: compute the embeddings again")
        return vectors

    def _state(self) -> dict[str, Any]:
        return {"rows": list(self._last), "accuracy": list(self._last.values())}

    def _restore(self, state: dict[str, Any]) -> None:
        rows, accuracy = state["rows"], state["accuracy"]
        inside = all(0 <= row < self.size for row in rows) and all(0.0 <= value <= 1.0 for value in accuracy)
        if not inside or len(rows) != len(accuracy):
            raise ConfigError(
                f"state of curriculum {self.name!r} with {len(rows)} rows and {len(accuracy)} accuracies, expected "
                f"rows of 0..{self.size - 1} with one in 0..1 each: continue with the run's data, or start a new run"
            )
        self._last = dict(zip(rows, accuracy, strict=True))
        self._fitted = None
