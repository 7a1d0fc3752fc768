"""The table of a comparison: what every arm came to over its seeds, alone and against the baselines.

A run that does not reach the target counts with all that it used, which is less than it would need: the mean is then
a lower bound (the restricted mean of survival analysis, at the run's own end), the number of such runs stands beside
it, and it is shown as such.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from gainrl_ray.algo.statistics import Interval, TimeToTarget, mean_interval, paired_difference, paired_ratio
from gainrl_ray.algo.statistics import time_to_target as reached_at
from gainrl_ray.comparing.grid import HALF

BASELINES = ("uniform", "length")
TIMES = {
    "steps_to_target": "step",
    "problems_to_target": "total_problems",
    "rollouts_to_target": "total_rollouts",
    "tokens_to_target": "total_tokens",
    "seconds_to_target": "total_seconds",
}
"""Measure -> the column that it is counted in."""
MEASURES = ("final_accuracy", *TIMES, "zero_variance", "grad_norm")
SHARES = ("final_accuracy", "zero_variance")
PUBLISHED_SPEEDUP = 2.5
"""GAIN-RL's steps to the accuracy that uniform sampling ends at, as a ratio (arXiv 2506.02281, abstract)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run's columns of the curves, [steps] each, nan where null, and what its signal cost."""

    columns: dict[str, np.ndarray]
    scoring_seconds: float

    @property
    def final_accuracy(self) -> float:
        """Of the last evaluation."""
        return float(self._evaluated("eval_accuracy")[-1])

    def time(self, column: str, target: float) -> TimeToTarget:
        """When the target was reached, counted in this column; in seconds, with those of the signal."""
        found = reached_at(self._evaluated(column).tolist(), self._evaluated("eval_accuracy").tolist(), target)
        extra = self.scoring_seconds if column == "total_seconds" else 0.0
        return found._replace(value=found.value + extra)

    def mean(self, column: str) -> float:
        """Mean over the steps that have the figure; nan when none has."""
        values = self.columns[column]
        return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan

    def _evaluated(self, column: str) -> np.ndarray:
        return self.columns[column][np.isfinite(self.columns["eval_accuracy"])]


Arms = Mapping[str, Mapping[int, Run]]
"""The finished runs by arm and seed."""


def runs_by_arm(curves: pa.Table) -> Arms:
    """The runs in a table of curves, arms and seeds in its order."""
    arms: dict[str, dict[int, Run]] = {}
    strategies, seeds = curves["strategy"].to_pylist(), curves["seed"].to_pylist()
    places: dict[tuple[str, int], list[int]] = {}
    for place, key in enumerate(zip(strategies, seeds, strict=True)):
        places.setdefault(key, []).append(place)
    names = [name for name in curves.column_names if name != "strategy"]
    arrays = {name: np.array(curves[name].to_pylist(), dtype=np.float64) for name in names}
    for (arm, seed), rows in places.items():
        columns = {name: array[rows] for name, array in arrays.items()}
        arms.setdefault(arm, {})[seed] = Run(columns=columns, scoring_seconds=float(columns["scoring_seconds"][0]))
    return arms


def make_table(
    name: str,
    arms: Arms,
    *,
    strategies: Sequence[str],
    target_accuracy: float | None,
    failed: Sequence[Mapping[str, Any]],
    gain_arms: Sequence[str],
) -> dict[str, Any]:
    """The table as JSON-able values, a row for each of `strategies`.

    target_accuracy: None = the mean of uniform's final accuracies; without those nothing is counted to a target.
    failed: "strategy", "seed" and "error" of each run that failed. gain_arms: those that GAIN-RL's claim is about.
    """
    if target_accuracy is None and arms.get("uniform"):
        target_accuracy = float(np.mean([run.final_accuracy for run in arms["uniform"].values()]))
    values = {strategy: _values(arms.get(strategy, {}), target_accuracy) for strategy in strategies}
    baselines = [baseline for baseline in BASELINES if baseline in strategies]
    rows = []
    for strategy, own in values.items():
        row = {
            "strategy": strategy,
            "runs": len(arms.get(strategy, {})),
            "failed": sum(entry["strategy"] == strategy for entry in failed),
            "measures": {measure: _measure(measure, seeds) for measure, seeds in own.items()},
            "against": {
                baseline: {measure: _against(seeds, values[baseline][measure]) for measure, seeds in own.items()}
                for baseline in baselines
                if baseline != strategy
            },
        }
        if "uniform" in baselines and strategy != "uniform":
            row["speedup"] = _speedup(arms.get(strategy, {}), arms.get("uniform", {}))
        rows.append(row)
    return {
        "name": name,
        "target_accuracy": target_accuracy,
        "baselines": baselines,
        "rows": rows,
        "failed": list(failed),
        "claims": _claims(rows, gain_arms),
    }


def _values(runs: Mapping[int, Run], target: float | None) -> dict[str, dict[int, TimeToTarget]]:
    """Measure -> seed -> value; figures that are no times count as reached. Without a target, no times."""
    plain: dict[str, Callable[[Run], float]] = {
        "final_accuracy": lambda run: run.final_accuracy,
        "zero_variance": lambda run: 1 - run.mean("informative_groups"),
        "grad_norm": lambda run: run.mean("grad_norm"),
    }
    found: dict[str, dict[int, TimeToTarget]] = {measure: {} for measure in MEASURES}
    for seed, run in runs.items():
        for measure, figure in plain.items():
            if math.isfinite(value := figure(run)):
                found[measure][seed] = TimeToTarget(value, True)
        if target is not None:
            for measure, column in TIMES.items():
                found[measure][seed] = run.time(column, target)
    return found


def _measure(measure: str, seeds: Mapping[int, TimeToTarget]) -> dict[str, Any]:
    most = 1.0 if measure in SHARES else math.inf
    found = None
    if seeds:
        found = mean_interval([value.value for value in seeds.values()], least=0.0, most=most)
    return _as_json("mean", found) | {"runs": len(seeds), "not_reached": _not_reached(seeds)}


def _against(ours: Mapping[int, TimeToTarget], theirs: Mapping[int, TimeToTarget]) -> dict[str, Any]:
    """Over the seeds of both; `not_reached` counts the runs of either that make it a bound or less."""
    seeds = sorted(set(ours) & set(theirs))
    found = None
    if seeds:
        found = paired_difference([ours[seed].value for seed in seeds], [theirs[seed].value for seed in seeds])
    unreached = sum(not (ours[seed].reached and theirs[seed].reached) for seed in seeds)
    return _as_json("difference", found) | {"seeds": len(seeds), "not_reached": unreached}


def _speedup(ours: Mapping[int, Run], uniform: Mapping[int, Run]) -> dict[str, Any]:
    """How many times fewer steps an arm needs to uniform's final accuracy, seed by seed.

    Both are counted to the first time that they reach it, also uniform itself, which may have been there before its
    last step; where the arm does not reach it, its steps are too few, and the ratio is an upper bound.
    """
    seeds = sorted(set(ours) & set(uniform))
    found, own = None, [ours[seed].time("step", uniform[seed].final_accuracy) for seed in seeds]
    if seeds:
        theirs = [uniform[seed].time("step", uniform[seed].final_accuracy) for seed in seeds]
        found = paired_ratio([time.value for time in theirs], [time.value for time in own])
    return _as_json("ratio", found) | {"seeds": len(seeds), "not_reached": sum(not time.reached for time in own)}


def _claims(rows: Sequence[dict[str, Any]], gain_arms: Sequence[str]) -> list[dict[str, Any]]:
    """What GAIN-RL published beside what came of its arms; nothing where there is no uniform to hold it against."""
    by_name, claims = {row["strategy"]: row for row in rows}, []
    for arm in gain_arms:
        speedup = by_name[arm].get("speedup")
        if speedup and speedup["seeds"]:
            text = f"{arm} reaches uniform's final accuracy in {PUBLISHED_SPEEDUP:g} times fewer steps"
            claims.append(_claim(text, PUBLISHED_SPEEDUP, speedup, "ratio"))
        half = by_name.get(f"{arm}-{HALF}", {}).get("against", {}).get("uniform")
        if half and half["final_accuracy"]["seeds"]:
            text = f"{arm} on half of the data ends no lower than uniform on all of it"
            claims.append(_claim(text, 0.0, half["final_accuracy"], "difference"))
    return claims


def _claim(text: str, published: float, found: Mapping[str, Any], measure: str) -> dict[str, Any]:
    """`holds`: whether the whole interval is on one side of what was published; None where it is on both."""
    holds = None
    if found["low"] is not None:
        above = found["low"] >= published and not found["not_reached"]
        holds = True if above else False if found["high"] < published else None
    interval = {key: found[key] for key in ("low", "high", "seeds", "not_reached")}
    return {"claim": text, "published": published, "measured": found[measure], **interval, "holds": holds}


def _not_reached(seeds: Mapping[int, TimeToTarget]) -> int:
    return sum(not value.reached for value in seeds.values())


def _as_json(name: str, found: Interval | None) -> dict[str, float | None]:
    """The interval with its estimate under `name`; null for what is not known."""
    values = (None, None, None) if found is None else found
    keys = (name, "low", "high")
    return {key: None if value is None or math.isnan(value) else value for key, value in zip(keys, values, strict=True)}
