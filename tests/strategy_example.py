"""Train with --curriculum.name=custom --curriculum.strategy=strategy_example:RetryStrategy, this file at hand."""

import numpy as np

from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.config_node import Fraction, Node
from gainrl_ray.curricula.base import Strategy


class RetryOptions(Node):
    retried: Fraction = 0.5  # most of a window that was partly solved at the last step


class RetryStrategy(Strategy):
    name, signal, options = "retry", "none", RetryOptions
    _partly: tuple[int, ...] = ()

    def _draw(self, step, count, planned):
        again = [row for row in self._partly if row not in planned][: int(count * self._config.retried)]
        others = np.setdiff1d(np.arange(self.size), again)
        fresh = coordinate_rng(self._seed, "retry", step).permutation(others)
        return np.array([*again, *fresh[: count - len(again)]], dtype=np.int64)

    def observe(self, outcome):
        self._partly = tuple(slot.row for slot in outcome.slots if 0 < slot.accuracy < 1)

    def metrics(self):
        return {"partly_solved": len(self._partly)}

    def _state(self):
        return {"partly": list(self._partly)}

    def _restore(self, state):
        self._partly = tuple(state["partly"])
