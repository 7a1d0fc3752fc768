"""What every curriculum is: a strategy that selects rows for a step and observes what came of them."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np

from gainrl_ray.config import CurriculumConfig
from gainrl_ray.errors import ConfigError
from gainrl_ray.types import StepOutcome

Signal = Literal["none", "angle", "length"]
Order = np.ndarray | range
"""`order[rank]` is a row, each of 0..N-1 once; `range(N)` is the dataset's own order, which needs no memory."""


class Strategy(ABC):
    """Selects which problems a step is trained on, over an order of N rows.

    `select` is pure: it depends on the state and its arguments only, and changes nothing. Only `observe` and
    `load_state_dict` change the state. All randomness comes from (seed, purpose, coordinates).
    """

    name: ClassVar[str]
    signal: ClassVar[Signal]
    """What `order` has to be sorted by; "none" is the dataset's own order."""
    wants_angle: ClassVar[bool]
    """Whether `observe` uses the angle concentration measured while training, of every slot."""

    def __init__(self, config: CurriculumConfig, order: Order, seed: int) -> None:
        """`config` is the strategy's own section; the order is neither read through nor copied."""
        self._config = config
        self._order = order
        self._seed = seed

    @property
    def size(self) -> int:
        """N, the number of rows in the order."""
        return len(self._order)

    def select(self, step: int, count: int) -> np.ndarray:
        """`count` distinct rows for `step`, [count] int64, by rising rank where rank has a meaning.

        Raises: ConfigError when the dataset has fewer than `count` rows.
        """
        if not 1 <= count <= self.size:
            raise ConfigError(
                f"rollout.problems_per_step is {count} and the dataset has {self.size} problems: "
                f"a step needs 1 to {self.size} of them"
            )
        ranks = self._ranks(step, count)
        return ranks if isinstance(self._order, range) else self._order[ranks].astype(np.int64)

    @abstractmethod
    def _ranks(self, step: int, count: int) -> np.ndarray:
        """`count` distinct ranks in 0..N-1."""

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


class FixedStrategy(Strategy):
    """A strategy whose windows depend on the step alone: outcomes change nothing, so it has no state."""

    signal: ClassVar[Signal] = "none"
    wants_angle: ClassVar[bool] = False

    def observe(self, outcome: StepOutcome) -> None:
        """Nothing to take in."""

    def metrics(self) -> dict[str, float]:
        """No figures."""
        return {}

    def _state(self) -> dict[str, Any]:
        return {}

    def _restore(self, state: dict[str, Any]) -> None:
        """Nothing to take over."""
