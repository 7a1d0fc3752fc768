"""What is known of the problems shown so far: arrays that grow with those, never with the dataset."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gainrl_ray.errors import ConfigError


class KnownProblems:
    """Named float32 columns of the rows that were written; every other row has the start values.

    `rows`: [k] int64, rising; `values[name]`: [k, *shape] float32, of the same rows, to be changed in place where all
    of them change. A problem takes the same memory, and about as many bytes of a checkpoint, whatever N is.
    """

    def __init__(self, size: int, start: Mapping[str, ArrayLike]) -> None:
        """size: N, the number of rows; start: the values of a row, by column."""
        self._size = size
        self._start = {name: np.asarray(value, dtype=np.float32) for name, value in start.items()}
        self.rows = np.empty(0, dtype=np.int64)
        self.values = {name: np.empty((0, *value.shape), dtype=np.float32) for name, value in self._start.items()}

    def known(self, rows: np.ndarray) -> np.ndarray:
        """Which of `rows` were written, [n] bool."""
        places = np.minimum(np.searchsorted(self.rows, rows), max(self.rows.size - 1, 0))
        return self.rows[places] == rows if self.rows.size else np.zeros(rows.size, dtype=bool)

    def read(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Values of a column at `rows`, [n, *shape] float32."""
        found, start = self.known(rows), self._start[name]
        values = np.broadcast_to(start, (rows.size, *start.shape)).copy()
        values[found] = self.values[name][np.searchsorted(self.rows, rows[found])]
        return values

    def write(self, rows: np.ndarray, **values: ArrayLike) -> None:
        """Set columns at distinct `rows`: [n, *shape], or one value for all."""
        added = np.sort(rows[~self.known(rows)])
        places = np.searchsorted(self.rows, added)
        self.rows = np.insert(self.rows, places, added)
        for name, start in self._start.items():
            self.values[name] = np.insert(self.values[name], places, start, axis=0)
        places = np.searchsorted(self.rows, rows)
        for name, value in values.items():
            self.values[name][places] = value

    def state_dict(self) -> dict[str, str]:
        """Text of each array's bytes, as JSON would take many more for numbers."""
        arrays = {"rows": self.rows.astype("<i8"), **{name: v.astype("<f4") for name, v in self.values.items()}}
        return {name: b64encode(array.tobytes()).decode("ascii") for name, array in arrays.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; a state that is refused changes nothing.

        Raises: ConfigError for other columns, or rows that are not rising rows of this dataset.
        """
        if state.keys() != {"rows", *self._start}:
            raise ConfigError(f"a state of problems has columns {sorted(state)}, expected rows and {[*self._start]}")
        try:
            rows = np.frombuffer(b64decode(state["rows"], validate=True), "<i8").astype(np.int64)
            values = {
                name: np.frombuffer(b64decode(state[name], validate=True), "<f4")
                .astype(np.float32)
                .reshape(rows.size, *start.shape)
                for name, start in self._start.items()
            }
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"a state of problems that is damaged: {error}; continue from another checkpoint"
            ) from error
        inside = not rows.size or (rows[0] >= 0 and rows[-1] < self._size and bool((np.diff(rows) > 0).all()))
        if not inside or not all(np.isfinite(column).all() for column in values.values()):
            raise ConfigError(
                f"a state of {rows.size} problems whose rows are not rising rows of 0..{self._size - 1}, or whose "
                "values are not finite: continue with the data the run was started with, or start a new run"
            )
        self.rows, self.values = rows, values
