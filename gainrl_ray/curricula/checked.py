"""A strategy behind checks: whatever it does wrong is an error that names it and the step, before anything is kept."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from gainrl_ray.curricula.base import NO_ROWS, Strategy
from gainrl_ray.errors import ConfigError, DataError, GainrlError
from gainrl_ray.types import StepOutcome

T = TypeVar("T")


class CheckedStrategy:
    """The calls of a Strategy, built in or a user's own, with what it returns checked.

    An error of this program's own passes through. Any other exception, and rows or a state that cannot be used, is a
    ConfigError; the caller then has no window of that step, and its checkpoints are as they were before.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._label = f"{type(strategy).__module__}:{type(strategy).__qualname__}"
        self._step = 0

    def select(self, step: int, count: int, planned: np.ndarray = NO_ROWS) -> np.ndarray:
        """`count` distinct rows, [count] int64."""
        rows = self._call("select", step, lambda: self._strategy.select(step, count, planned))
        return self._rows("select", rows, count, count, NO_ROWS)

    def refill(self, step: int, count: int, drawn: np.ndarray, planned: np.ndarray = NO_ROWS) -> np.ndarray:
        """`count` more distinct rows, none of them drawn, fewer where fewer are left."""
        rows = self._call("refill", step, lambda: self._strategy.refill(step, count, drawn, planned))
        return self._rows("refill", rows, min(count, self._strategy.size - drawn.size), count, drawn)

    def observe(self, outcome: StepOutcome) -> None:
        """Take in a step.

        Raises: DataError for an accuracy outside 0..1.
        """
        wrong = [slot for slot in outcome.slots if not 0.0 <= slot.accuracy <= 1.0]
        if wrong:
            raise DataError(
                f"step {outcome.step}, slot {wrong[0].slot}, row {wrong[0].row}: accuracy {wrong[0].accuracy}, "
                "expected 0 to 1: the grader counted wrongly; the curriculum did not take the step in"
            )
        self._call("observe", outcome.step, lambda: self._strategy.observe(outcome))

    def state_dict(self) -> dict[str, Any]:
        """The state, which JSON gives back as it was."""
        state = self._call("state_dict", self._step, self._strategy.state_dict)
        self._call("state_dict, as JSON,", self._step, lambda: json.dumps(state, allow_nan=False))
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self._call("load_state_dict", self._step, lambda: self._strategy.load_state_dict(state))

    def metrics(self) -> dict[str, float]:
        """Figures for logs."""
        metrics = self._call("metrics", self._step, self._strategy.metrics)
        return self._call("metrics, as numbers,", self._step, lambda: {k: float(v) for k, v in metrics.items()})

    def _call(self, method: str, step: int, call: Callable[[], T]) -> T:
        self._step = step
        try:
            return call()
        except GainrlError:
            raise
        except Exception as error:
            raise self._error(method, f"raised {type(error).__name__}: {error} ({_place(error)})") from error

    def _rows(self, method: str, rows: Any, least: int, most: int, drawn: np.ndarray) -> np.ndarray:
        """The rows, or a ConfigError that says what is wrong with them."""
        size = self._strategy.size
        try:
            found = np.asarray(rows)
        except ValueError as error:
            raise self._error(method, f"returned a {type(rows).__name__} that is no array: {error}") from error
        if found.ndim != 1 or found.dtype.kind not in "iu":
            raise self._error(method, f"returned {found.dtype} of shape {found.shape}, expected whole numbers, [count]")
        distinct, times = np.unique(found, return_counts=True)
        outside, again = distinct[(distinct < 0) | (distinct >= size)], distinct[np.isin(distinct, drawn)]
        if not least <= found.size <= most:
            raise self._error(method, f"returned {found.size} rows, expected {most}")
        if distinct.size != found.size:
            raise self._error(
                method, f"returned row {distinct[times > 1][0]} {times.max()} times, expected distinct rows"
            )
        if outside.size:
            raise self._error(method, f"returned row {outside[0]}, of a dataset of rows 0..{size - 1}")
        if again.size:
            raise self._error(method, f"returned row {again[0]}, which the step has already")
        return found.astype(np.int64)

    def _error(self, method: str, what: str) -> ConfigError:
        return ConfigError(
            f"curriculum {self._label}: {method} at step {self._step} {what}; "
            "nothing of it was kept: mend the strategy and continue the run"
        )


def _place(error: BaseException) -> str:
    """File and line where an exception was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "nowhere"
