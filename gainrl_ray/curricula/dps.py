"""DPS (arXiv 2603.10887): the problems most likely to be partly solved, each one a chain of three states."""

from typing import Any, ClassVar

import numpy as np

from gainrl_ray.algo.permutation import Permutation
from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.config_curricula import DpsConfig
from gainrl_ray.curricula.base import NO_COLUMNS, NO_ROWS, Columns, Order, Signal
from gainrl_ray.curricula.known_problems import KnownProblems
from gainrl_ray.curricula.problem_strategy import ProblemStrategy, shown
from gainrl_ray.types import StepOutcome

STATES = 3
_WRONG, _PARTIAL, _RIGHT = range(STATES)  # all completions wrong, some right, all right
_UNSEEN = 1.0 / STATES
"""What is believed of each state of a problem that was never shown: all alike at first, and as the transition counts
before training are all alike too, they stay so."""


class DpsStrategy(ProblemStrategy):
    """Takes the problems with the largest probability of being partly solved, ties at random.

    Of each problem there is a belief over its state, [3], and counts of transitions, [3, 3], whose rows divided by
    their sums are the transition matrix. With every step belief <- belief @ matrix. When the problem is shown, its
    state j is seen exactly: the transition i -> j gets the share xi_i ~ belief_i matrix_ij that it happened,
    counts <- keep * counts + (1 - keep) * prior + xi, and the belief is j alone.

    Source: DPS, arXiv 2603.10887, its lambda = keep_counts. A group is partial when neither none nor all of its
    completions are correct. The prior is ours: all transitions alike.
    """

    name: ClassVar[str] = "dps"
    signal: ClassVar[Signal] = "none"

    def __init__(self, config: DpsConfig, order: Order, seed: int, columns: Columns = NO_COLUMNS) -> None:
        super().__init__(config, order, seed, columns)
        self._config: DpsConfig = config
        self._prior = np.full((STATES, STATES), config.prior_count)
        self._known = KnownProblems(self.size, {"belief": np.full(STATES, _UNSEEN), "counts": self._prior})

    def observe(self, outcome: StepOutcome) -> None:
        """Let every belief go a step on; of problems that were shown, learn which transition it was."""
        seen, known = shown(outcome), self._known
        before, counts = known.read("belief", seen.rows), known.read("counts", seen.rows)
        known.values["belief"] = _advanced(known.values["belief"], known.values["counts"])
        state = np.where(seen.successes == 0, _WRONG, np.where(seen.successes == seen.completions, _RIGHT, _PARTIAL))
        matrix = counts / counts.sum(axis=2, keepdims=True)
        came_from = before * np.take_along_axis(matrix, state[:, None, None], axis=2)[:, :, 0]
        came_from /= came_from.sum(axis=1, keepdims=True)
        keep = self._config.keep_counts
        counts = keep * counts + (1.0 - keep) * self._prior
        counts[np.arange(state.size), :, state] += came_from
        known.write(seen.rows, belief=np.eye(STATES)[state], counts=counts)

    def metrics(self) -> dict[str, float]:
        """`problems_shown`, each counted once, and `believed_partial`, the mean over them of what is expected next."""
        partial = self._partial()
        return {
            "problems_shown": float(partial.size),
            "believed_partial": float(partial.mean()) if partial.size else _UNSEEN,
        }

    def _pick(self, step: int, count: int, avoided: np.ndarray) -> np.ndarray:
        free = ~np.isin(self._known.rows, avoided)
        unseen = self._unseen(step, count, avoided)
        rows = np.concatenate([self._known.rows[free], unseen])
        partial = np.concatenate([self._partial()[free], np.full(unseen.size, _UNSEEN)])
        noise = coordinate_rng(self._seed, "ties", step).random(rows.size)
        return rows[np.lexsort((noise, -partial))[:count]]

    def _partial(self) -> np.ndarray:
        """Probability that each known problem is partly solved at the step to come, [k] float64."""
        return _advanced(self._known.values["belief"], self._known.values["counts"])[:, _PARTIAL]

    def _unseen(self, step: int, count: int, avoided: np.ndarray) -> np.ndarray:
        """`count` random problems, or all, that were never shown and are not avoided.

        Those of a shuffle one after the other; where fewer than half are unseen, of a list of all of them.
        """
        left_out = np.concatenate([self._known.rows, avoided])
        if 2 * left_out.size > self.size:
            rows = np.setdiff1d(np.arange(self.size), left_out)
            return coordinate_rng(self._seed, "unseen", step).permutation(rows)[:count]
        shuffle, found, place = Permutation(self.size, self._seed, "unseen", step), NO_ROWS, 0
        while found.size < count and place < self.size:
            stop = min(place + 2 * count, self.size)
            rows = shuffle(np.arange(place, stop))
            found = np.concatenate([found, rows[~self._known.known(rows) & ~np.isin(rows, avoided)]])
            place = stop
        return found[:count]

    def _state(self) -> dict[str, Any]:
        return {"problems": self._known.state_dict()}

    def _restore(self, state: dict[str, Any]) -> None:
        self._known.load(state["problems"])


def _advanced(belief: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Beliefs a step on, [k, 3], under the means of Dirichlet beliefs of their transitions, [k, 3, 3]."""
    return np.einsum("ki,kij->kj", belief / counts.sum(axis=2), counts)
