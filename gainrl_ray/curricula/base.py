"""What every curriculum is: a strategy that selects rows for a step and observes what came of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from gainrl_ray.algo.permutation import Permutation
from gainrl_ray.config_node import Node
from gainrl_ray.errors import ConfigError
from gainrl_ray.types import StepOutcome

Signal = Literal["none", "angle", "length", "pass_rate", "external", "difficulty"]
"""What an order is sorted by: `pass_rate`, the highest first; `difficulty`, the column of that name, rising."""
Column = Literal["difficulty", "embedding"]
"""What a strategy may want to know of every row before training: `difficulty`, [N] in [0, 1], 1 the hardest;
`embedding`, [N, size], a vector of its question."""
Order = np.ndarray | range
"""`order[rank]` is a row, each of 0..N-1 once; `range(N)` is the dataset's own order, which needs no memory."""

Columns = Mapping[Column, np.ndarray]
NO_COLUMNS: Columns = MappingProxyType({})
NO_ROWS = np.empty(0, dtype=np.int64)


class Strategy(ABC):
    """Selects which problems a step is trained on, over an order of N rows.

    `select` is pure: it depends on the state and its arguments only, and changes nothing. Only `observe` and
    `load_state_dict` change the state, and `observe` does by the outcome and the state alone: a state may be restored
    from an older one by observing again. All randomness comes from (seed, purpose, coordinates).
    """

    name: ClassVar[str]
    signal: ClassVar[Signal]
    """What `order` has to be sorted by; "none" is the dataset's own order."""
    needs: ClassVar[tuple[Column, ...]] = ()
    """The columns that it is given."""
    options: ClassVar[type[Node]] = Node
    """Of a user's own strategy: the section that `curriculum.options` is checked by; this one takes no key."""
    wants_angle: ClassVar[bool] = False
    """Whether `observe` uses the angle concentration measured while training, of every slot."""

    def __init__(self, config: Node, order: Order, seed: int, columns: Columns = NO_COLUMNS) -> None:
        """`config` is the strategy's own section, `columns` what it `needs`, by row; nothing is copied."""
        self._config = config
        self._order = order
        self._seed = seed
        self._columns = columns

    @classmethod
    def variant(cls, config: Node) -> type["Strategy"]:
        """The class that `config` asks for, whose `signal` and `needs` hold: this one, unless the settings say more."""
        return cls

    @property
    def size(self) -> int:
        """N, the number of rows in the order."""
        return len(self._order)

    def select(self, step: int, count: int, planned: np.ndarray = NO_ROWS) -> np.ndarray:
        """`count` distinct rows for `step`, [count] int64, by rising rank where rank has a meaning.

        planned: [n] int64, rows of other steps that are drawn and not observed yet (`rollout.max_staleness`); those
        who choose by what they know of single problems leave them out, since they know nothing new of them.

        Raises: ConfigError when the dataset has fewer than `count` rows.
        """
        if not 1 <= count <= self.size:
            raise ConfigError(
                f"rollout.problems_per_step is {count} and the dataset has {self.size} problems: "
                f"a step needs 1 to {self.size} of them"
            )
        return self._draw(step, count, planned)

    def refill(self, step: int, count: int, drawn: np.ndarray, planned: np.ndarray = NO_ROWS) -> np.ndarray:
        """`count` more distinct rows for `step`, [count] int64, fewer where fewer are left; none of them in `drawn`.

        drawn: [n] int64, the rows of this step so far, in the order in which they were drawn. planned: as in `select`.
        Here the rows come from a shuffle of the step's own; strategies with a law of their own go on with that.
        """
        places = np.arange(min(self.size, drawn.size + count), dtype=np.int64)
        rows = self._rows(Permutation(self.size, self._seed, "refill", step)(places))
        return rows[~np.isin(rows, drawn)][:count]

    @abstractmethod
    def _draw(self, step: int, count: int, planned: np.ndarray) -> np.ndarray:
        """What `select` returns; `count` is in 1..N."""

    def _rows(self, ranks: np.ndarray) -> np.ndarray:
        return ranks if isinstance(self._order, range) else self._order[ranks].astype(np.int64)

    @abstractmethod
    def observe(self, outcome: StepOutcome) -> None:
        """Take in the outcome of a step; every step is observed once, in order."""

    def state_dict(self) -> dict[str, Any]:
        """The whole state as JSON-able values; with the same order, seed and config it gives the same draws."""
        return {"strategy": self.name, "size": self.size, **self._state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` gave.

        Raises: ConfigError for missing or unknown keys, another strategy's state, or one over another N.
        """
        expected = self.state_dict()
        if state.keys() != expected.keys():
            raise ConfigError(
                f"state of curriculum {self.name!r} has keys {sorted(state)}, expected {sorted(expected)}: "
                "it was written by another version or strategy; start a new run"
            )
        for key in ("strategy", "size"):
            if state[key] != expected[key]:
                raise ConfigError(
                    f"state of curriculum {self.name!r} has {key} {state[key]!r}, expected {expected[key]!r}: "
                    "continue with the settings and data the run was started with, or start a new run"
                )
        self._restore({key: value for key, value in state.items() if key not in ("strategy", "size")})

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Figures of the present state for logs."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """The strategy's own part of the state."""

    @abstractmethod
    def _restore(self, state: dict[str, Any]) -> None:
        """Take over what `_state` gave; its keys are checked already."""


class RankedStrategy(Strategy):
    """A strategy that draws ranks, whatever problems stand there."""

    def _draw(self, step: int, count: int, planned: np.ndarray) -> np.ndarray:
        return self._rows(self._ranks(step, count))

    @abstractmethod
    def _ranks(self, step: int, count: int) -> np.ndarray:
        """`count` distinct ranks in 0..N-1."""


class FixedStrategy(RankedStrategy):
    """A strategy whose windows depend on the step alone: outcomes change nothing, so it has no state."""

    signal: ClassVar[Signal] = "none"

    def observe(self, outcome: StepOutcome) -> None:
        """Nothing to take in."""

    def metrics(self) -> dict[str, float]:
        """No figures."""
        return {}

    def _state(self) -> dict[str, Any]:
        return {}

    def _restore(self, state: dict[str, Any]) -> None:
        """Nothing to take over."""
