"""A strategy of one's own: train with --curriculum.name=custom --curriculum.strategy=strategy_example:RetryStrategy."""

import numpy as np

from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.config_node import Fraction, Node
from gainrl_ray.curricula.base import Strategy


class RetryOptions(Node):
    retried: Fraction = 0.5
    """At most this share of a window is problems that were partly solved before."""


class RetryStrategy(Strategy):
    name, signal, options = "retry", "none", RetryOptions

    def __init__(self, config, order, seed, columns):
        super().__init__(config, order, seed, columns)
        self._partly: list[int] = []

    def _draw(self, step, count, planned):
        again = [row for row in self._partly if row not in planned][: int(count * self._config.retried)]
        fresh = coordinate_rng(self._seed, "retry", step).permutation(self.size)
        return np.concatenate([np.array(again, dtype=np.int64), fresh[~np.isin(fresh, again)]])[:count]

    def observe(self, outcome):
        self._partly = [slot.row for slot in outcome.slots if 0 < slot.accuracy < 1]

    def metrics(self):
        return {"partly_solved": len(self._partly)}

    def _state(self):
        return {"partly": self._partly}

    def _restore(self, state):
        self._partly = state["partly"]
