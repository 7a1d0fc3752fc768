"""The curves of a comparison: one row for every run and step, read from the runs' metrics."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from gainrl_ray.comparing.grid import Cell
from gainrl_ray.metrics import Record, read_metrics
from gainrl_ray.storage import Storage

SCHEMA = pa.schema(
    [
        ("strategy", pa.string()),  # the arm's name
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("eval_accuracy", pa.float64()),  # null where not evaluated
        ("accuracy", pa.float64()),  # this and the next three: null at step 0
        ("reward", pa.float64()),
        ("informative_groups", pa.float64()),
        ("grad_norm", pa.float64()),
        ("total_problems", pa.int64()),
        ("total_rollouts", pa.int64()),
        ("total_tokens", pa.int64()),
        ("total_seconds", pa.float64()),  # of training and evaluating, since the engines served the first weights
        ("scoring_seconds", pa.float64()),  # that making the run's signals took, to be added
    ]
)
_TOTALS = ("problems", "rollouts", "tokens", "seconds")
_FIGURES = ("accuracy", "reward", "informative_groups", "grad_norm")


def cell_records(cell: Cell) -> list[Record]:
    """The metrics of a cell's run, none when it has not begun."""
    return read_metrics(Storage(cell.config.run.storage).child(cell.run_name))


def is_finished(cell: Cell, records: Sequence[Record]) -> bool:
    """Whether the run has trained all its steps and evaluated the last."""
    return bool(records) and records[-1]["step"] >= cell.config.run.steps and "eval/accuracy" in records[-1]


def curves(runs: Iterable[tuple[Cell, Sequence[Record]]], scoring_seconds: Mapping[str, float]) -> pa.Table:
    """The curves of these runs, with `SCHEMA`; `scoring_seconds` by the run's name."""
    rows = [
        _row(record) | {"strategy": cell.arm, "seed": cell.seed, "scoring_seconds": scoring_seconds[cell.run_name]}
        for cell, records in runs
        for record in records
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _row(record: Record) -> dict[str, Any]:
    return {
        "step": record["step"],
        "eval_accuracy": record.get("eval/accuracy"),
        **{name: record.get(name) for name in _FIGURES},
        **{f"total_{name}": record.get(f"total/{name}", 0) for name in _TOTALS},
    }
