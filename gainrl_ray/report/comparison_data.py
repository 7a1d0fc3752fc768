"""A comparison's folder as its report needs it: the curves of every run, and means over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from gainrl_ray.algo.statistics import LEVEL, t_quantile
from gainrl_ray.data.signal_store import DIAGNOSTICS_FILE
from gainrl_ray.errors import DataError
from gainrl_ray.report.provenance import read_json
from gainrl_ray.storage import Storage

COMPARISONS = "comparisons"
"""Folder below `run.storage`."""
CURVES_FILE, TABLE_FILE = "curves.parquet", "table.json"

AXES = {
    "steps": ("step", "step"),
    "rollouts": ("total_rollouts", "rollouts"),
    "tokens": ("total_tokens", "generated tokens"),
    "seconds": ("total_seconds", "seconds, those of scoring included"),
}
"""Axis -> (column, label)."""
METRICS = {
    "eval_accuracy": "held-out accuracy",
    "accuracy": "accuracy on problems drawn",
    "reward": "reward",
    "informative_groups": "informative groups (share)",
    "grad_norm": "gradient norm",
}
"""Column -> label."""
SHARES = ("eval_accuracy", "accuracy", "informative_groups")
LEAST_SEEDS = 3
"""Fewest seeds that get a band: of two, Student's interval reaches nine times their distance to each side."""
POINTS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A figure's mean over a strategy's seeds, arrays [points]; `low` and `high` bound it with 95 % confidence."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray  # nan where there are too few seeds
    high: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonData:
    """All that the report of a comparison shows."""

    table: Mapping[str, Any]  # table.json
    signals: Sequence[Mapping[str, Any]]  # of diagnostics.json
    runs: Mapping[str, Mapping[int, Mapping[str, np.ndarray]]]  # strategy -> seed -> column -> [steps], nan for null

    @property
    def strategies(self) -> list[str]:
        """Names in the table's order."""
        return [row["strategy"] for row in self.table["rows"]]

    def curve(self, strategy: str, metric: str, axis: str) -> Curve | None:
        """A metric's mean curve over the steps, rollouts, ... that all seeds have; None where there is none."""
        found = [_points(run, metric, AXES[axis][0]) for run in self.runs.get(strategy, {}).values()]
        found = [(x, y) for x, y in found if len(x)]
        if not found:
            return None
        begin, end = max(x[0] for x, _ in found), min(x[-1] for x, _ in found)
        if axis == "steps":
            grid = np.array(sorted(set.intersection(*(set(x.tolist()) for x, _ in found))))
            grid = grid[np.unique(np.linspace(0, len(grid) - 1, POINTS).round().astype(int))] if len(grid) else grid
        else:
            grid = np.linspace(begin, end, POINTS) if end > begin else np.array([begin])
        if not len(grid):
            return None
        return _over_seeds(grid, np.array([np.interp(grid, x, y) for x, y in found]), metric)


def read_comparison(folder: Storage) -> ComparisonData:
    """A comparison as its folder has it. Raises DataError when a file is missing or cannot be read."""
    table = read_json(folder, TABLE_FILE)
    diagnostics = read_json(folder, DIAGNOSTICS_FILE) if folder.exists(DIAGNOSTICS_FILE) else {"signals": []}
    if not isinstance(table, dict) or not isinstance(table.get("rows"), list):
        raise DataError(f"{folder.child(TABLE_FILE).uri} has no rows: it was not written by jobs/compare.py")
    curves = folder.read_table(CURVES_FILE)
    needed = {"strategy", "seed", "scoring_seconds", *METRICS, *(column for column, _ in AXES.values())}
    if missing := sorted(needed - set(curves.column_names)):
        raise DataError(f"{folder.child(CURVES_FILE).uri} has no columns {', '.join(missing)}: compare again")
    return ComparisonData(table=table, signals=diagnostics["signals"], runs=_by_run(curves))


def _by_run(curves: pa.Table) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    strategies = np.array(curves["strategy"].to_pylist(), dtype=object)
    seeds, steps = curves["seed"].to_numpy(), curves["step"].to_numpy()
    names = [name for name in curves.column_names if name not in ("strategy", "seed")]
    columns = {name: curves[name].cast(pa.float64()).to_numpy() for name in names}
    columns["total_seconds"] = columns["total_seconds"] + columns["scoring_seconds"]
    runs: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for strategy, seed in dict.fromkeys(zip(strategies.tolist(), seeds.tolist(), strict=True)):
        rows = np.flatnonzero((strategies == strategy) & (seeds == seed))
        rows = rows[np.argsort(steps[rows], kind="stable")]
        runs.setdefault(strategy, {})[seed] = {name: column[rows] for name, column in columns.items()}
    return runs


def _points(run: Mapping[str, np.ndarray], metric: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(run[metric]) & np.isfinite(run[column])
    return run[column][known], run[metric][known]


def _over_seeds(x: np.ndarray, values: np.ndarray, metric: str) -> Curve:
    """Mean and Student's t interval of `values` [seeds, points], cut to what is possible."""
    seeds, mean = len(values), values.mean(axis=0)
    if seeds < LEAST_SEEDS:
        unknown = np.full_like(mean, np.nan)
        return Curve(x=x, mean=mean, low=unknown, high=unknown)
    half = t_quantile((1 + LEVEL) / 2, seeds - 1) * values.std(axis=0, ddof=1) / np.sqrt(seeds)
    least, most = (0.0, 1.0) if metric in SHARES else (-np.inf, np.inf)
    return Curve(x=x, mean=mean, low=np.maximum(mean - half, least), high=np.minimum(mean + half, most))
