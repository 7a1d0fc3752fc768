"""A run's folder as its report needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gainrl_ray.config_layers import yaml_layer
from gainrl_ray.errors import DataError
from gainrl_ray.metrics import METRICS_FILE, Record, read_metrics
from gainrl_ray.report.provenance import ENVIRONMENT_FILE, Ordering, read_json, read_order
from gainrl_ray.report.rollouts import RolloutReader, StepRollouts
from gainrl_ray.run_record import CONFIG_FILE
from gainrl_ray.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """All that the report of a run shows; steps count from 1, and 0 is before training."""

    name: str
    folder: str
    records: Sequence[Record]  # trained steps
    evaluations: Sequence[Record]  # those that hold held-out figures, step 0 included
    config_text: str
    config: dict[str, Any]  # of config_text; as it was written, by whatever version
    environment: dict[str, str]
    rollouts: Sequence[StepRollouts]
    ordering: Ordering

    @property
    def steps(self) -> int:
        """Steps trained so far."""
        return self.records[-1]["step"] if self.records else 0

    def setting(self, key: str) -> Any:
        """The value of a dotted key of the config; None when it has none."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """The steps that have a figure, and the figure, [M] each; what is not finite is left out."""
        pairs = [(r["step"], r[key]) for r in (*self.evaluations, *self.records) if r.get(key) is not None]
        found = dict(sorted(pairs))
        return np.array(list(found), dtype=np.int64), np.array(list(found.values()), dtype=np.float64)


class RunReader:
    """Reads a run that may be going on, again and again."""

    def __init__(self, run: Storage) -> None:
        self._run = run
        self._rollouts = RolloutReader(run)

    def read(self) -> RunData:
        """The run as it is now.

        Raises:
            DataError, ConfigError: the folder holds no metrics yet, or a file in it cannot be read.
        """
        run = self._run
        records = run_records(run)
        last = records[-1]["step"]
        text = run.read_text(CONFIG_FILE) if run.exists(CONFIG_FILE) else ""
        rollouts = self._rollouts.read(last)
        return RunData(
            name=run.path.rpartition("/")[2],
            folder=run.uri,
            records=[record for record in records if record["step"] > 0],
            evaluations=[record for record in records if "eval/accuracy" in record],
            config_text=text,
            config=yaml_layer(text.encode(), origin=run.child(CONFIG_FILE).uri).tree,
            environment=read_json(run, ENVIRONMENT_FILE) if run.exists(ENVIRONMENT_FILE) else {},
            rollouts=rollouts,
            ordering=read_order(run) or _unknown_order(records, rollouts),
        )


def run_records(run: Storage) -> list[Record]:
    """The records of a run's metrics, one at least.

    Raises:
        DataError: there are none, or the file is not one that a run writes.
    """
    where = run.child(METRICS_FILE).uri
    try:
        records = read_metrics(run)
        if records and not all(isinstance(record.get("step"), int) for record in records):
            raise ValueError("a line without a step")
    except (ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} is no metrics file ({error}): restore it, or give another run") from error
    if not records:
        raise DataError(f"{where} does not exist or is empty: the report needs a run that has begun to train")
    return records


def _unknown_order(records: Sequence[Record], rollouts: Sequence[StepRollouts]) -> Ordering:
    """Rows for ranks, for a folder that does not say which order its run had."""
    drawn = max((int(step.rows.max()) + 1 for step in rollouts), default=1)
    size = max(int(record.get("data/train_rows") or 0) for record in records)
    return Ordering(problems=max(size, drawn), signal="none", order=None, lost=True)
