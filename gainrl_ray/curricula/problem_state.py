"""State of every problem in arrays, for strategies that learn about single problems: cheap top-k, small checkpoints."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gainrl_ray.algo.permutation import Permutation
from gainrl_ray.errors import ConfigError

_FAN_OUT = 32  # values under one maximum


@dataclass(frozen=True, slots=True)
class Column:
    """One number of every problem."""

    dtype: str = "float32"
    start: float = 0.0  # of every row, before it is written
    ranked: bool = False  # whether `top` and `at_least` are asked of it


class ProblemState:
    """Named columns over rows 0..N-1, read and written by row, a step's rows at once.

    Of ranked columns the maxima of blocks of 32 values, of 32 such blocks, and so on, are kept: writing k rows and
    finding the k largest of N take time in k log N. What changes with every step (a decay, a belief that drifts) is
    kept lazily: a column with the step of the last write, from which the reader of a row computes its present value.

    Equal values come in an order that is a computed shuffle of the rows, keyed by the seed: before anything is
    known, the k largest are k random rows. All results depend on the writes and the seed only.

    A checkpoint (`state_dict`) holds the rows written since the base. The base is the start values, or what
    `compact` last returned, which then has to be kept beside the checkpoints and given to `load`.
    """

    def __init__(self, size: int, columns: Mapping[str, Column], seed: int) -> None:
        self._kinds = dict(columns)
        self._shuffle = Permutation(size, seed, "problem state")
        self.size = size
        self._base, self._base_rows = "", np.empty(0, dtype=np.int64)
        self._written: list[np.ndarray] = []  # rows since the base, a step's after the other's
        # By place in the shuffle, so that of equal values the first are random rows.
        self._values = {name: np.full(size, kind.start, dtype=kind.dtype) for name, kind in columns.items()}
        self._maxima = {name: _pyramid(self._values[name]) for name, kind in columns.items() if kind.ranked}

    @property
    def nbytes(self) -> int:
        """Bytes of all columns and maxima."""
        arrays = [*self._values.values(), *(level for levels in self._maxima.values() for level in levels)]
        return sum(array.nbytes for array in arrays)

    def read(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Values of a column at `rows`, [n] of the column's dtype."""
        return self._values[name][self._places(rows)]

    def write(self, rows: np.ndarray, **values: np.ndarray | float) -> None:
        """Set columns at `rows`: [n] distinct rows; values [n], or one for all.

        Raises:
            ValueError: a row twice, or NaN in a ranked column.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if np.unique(rows).size != rows.size:
            raise ValueError(f"{rows.size} rows to write, some of them twice: join what a step says of a row first")
        for name in values.keys() & self._maxima.keys():
            if np.isnan(values[name]).any():
                raise ValueError(f"NaN for the ranked column {name!r}, which has no place among numbers")
        places = self._places(rows)
        self._written.append(rows.copy())
        for name, value in values.items():
            self._values[name][places] = value
            if name in self._maxima:
                self._raise(name, places)

    def top(self, name: str, count: int) -> np.ndarray:
        """Rows of the `count` largest values of a ranked column, largest first, [count] int64.

        Of each level of maxima the `count` first blocks are opened, by falling maximum and rising place: were a
        value of another block among the first `count`, a value of each opened block would come before it.
        """
        if not 1 <= count <= self.size:
            raise ValueError(f"the top {count} of {self.size} problems: ask for 1 to {self.size}")
        levels = self._from_above(name)
        places = np.arange(levels[0].size)
        for level, below in pairwise(levels):
            places = _children(_first(level, places, count), below.size)
        places = _first(self._values[name], places, count)
        values = self._values[name][places].astype(np.float64)
        return self._shuffle.inverse(places[np.argsort(-values, kind="stable")])

    def at_least(self, name: str, threshold: float) -> np.ndarray:
        """Rows whose value in a ranked column is `threshold` or more, rising, [n] int64; time is in their number."""
        levels = self._from_above(name)
        places = np.arange(levels[0].size)
        for level, below in pairwise(levels):
            places = _children(places[level[places] >= threshold], below.size)
        return np.sort(self._shuffle.inverse(places[self._values[name][places] >= threshold]))

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: the base, and rows written since with their values."""
        rows = self._merged()
        values = {name: self.read(name, rows).tolist() for name in self._kinds}
        return {"size": self.size, "base": self._base, "rows": rows.tolist(), "values": values}

    def compact(self) -> dict[str, np.ndarray]:
        """All rows ever written, as arrays `rows` and one a column: the new base, from which checkpoints count."""
        rows = self._base_rows = np.union1d(self._base_rows, self._merged())
        self._written.clear()
        base = {"rows": rows, **{name: self.read(name, rows) for name in self._kinds}}
        self._base = _digest(base)
        return base

    def load(self, state: Mapping[str, Any], base: Mapping[str, np.ndarray] | None = None) -> None:
        """Take over a checkpoint, with the base that it counts from; none where that is the start values.

        Raises:
            ConfigError: another base, other columns or another size.
        """
        received = (state["size"], state["base"], set(state["values"]))
        expected = (self.size, "" if base is None else _digest(base), set(self._kinds))
        if received != expected:
            raise ConfigError(
                f"a state of problems with size, base and columns {received}, expected {expected}: "
                "continue with the data, settings and base file of the run, or start a new run"
            )
        old = np.union1d(self._base_rows, self._merged())
        self.write(old, **{name: kind.start for name, kind in self._kinds.items()})
        if base is not None:
            self.write(base["rows"], **{name: base[name] for name in self._kinds})
        self._base, self._base_rows = expected[1], np.empty(0, dtype=np.int64) if base is None else base["rows"]
        self._written.clear()
        kinds = self._kinds.items()
        self.write(
            np.array(state["rows"], dtype=np.int64),
            **{name: np.array(state["values"][name], dtype=kind.dtype) for name, kind in kinds},
        )

    def _places(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.size and not (rows.min() >= 0 and rows.max() < self.size):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of {self.size} problems")
        return self._shuffle(rows)

    def _from_above(self, name: str) -> list[np.ndarray]:
        """Maxima from the fewest to the most, and last the values."""
        return [*self._maxima[name][::-1], self._values[name]]

    def _merged(self) -> np.ndarray:
        """Rows written since the base, each once, rising."""
        self._written = [np.unique(np.concatenate(self._written))] if self._written else []
        return self._written[0] if self._written else np.empty(0, dtype=np.int64)

    def _raise(self, name: str, places: np.ndarray) -> None:
        """Bring the maxima above changed places up to date, level by level."""
        below = self._values[name]
        for level in self._maxima[name]:
            places = np.unique(places // _FAN_OUT)
            inside = np.minimum(places[:, None] * _FAN_OUT + np.arange(_FAN_OUT), below.size - 1)
            level[places] = below[inside].max(axis=1)
            below = level


def _pyramid(values: np.ndarray) -> list[np.ndarray]:
    """Maxima of blocks of values, of blocks of those, and so on, up to one level of at most _FAN_OUT."""
    levels = []
    while not levels or values.size > _FAN_OUT:
        values = np.maximum.reduceat(values, np.arange(0, values.size, _FAN_OUT))
        levels.append(values)
    return levels


def _children(places: np.ndarray, size: int) -> np.ndarray:
    """Places one level below, rising where the given ones do."""
    below = (places[:, None] * _FAN_OUT + np.arange(_FAN_OUT)).ravel()
    return below[below < size]


def _first(values: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """The `count` of rising `places` whose values are largest, of equal ones the first; rising."""
    if places.size <= count:
        return places
    candidates = values[places]
    least = np.partition(candidates, candidates.size - count)[candidates.size - count]
    chosen = candidates > least
    chosen[np.flatnonzero(candidates == least)[: count - int(chosen.sum())]] = True
    return places[chosen]


def _digest(base: Mapping[str, np.ndarray]) -> str:
    """Hex digest of what a base holds."""
    content = hashlib.blake2b(digest_size=16)
    for name in sorted(base):
        content.update(name.encode() + np.ascontiguousarray(base[name]).tobytes())
    return content.hexdigest()
