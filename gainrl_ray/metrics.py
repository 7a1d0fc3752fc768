"""Numbers of a run: one JSON object a step in metrics.jsonl, the same to TensorBoard and other trackers."""

import importlib.util
import json
import math
import tempfile
from pathlib import Path
from typing import Any, Protocol

from gainrl_ray.config import TrackingConfig
from gainrl_ray.errors import ConfigError
from gainrl_ray.storage import Storage

METRICS_FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"

Record = dict[str, Any]


class Tracker(Protocol):
    """Where numbers go beside metrics.jsonl."""

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Take the numbers of one step."""
        ...

    def close(self) -> None:
        """Flush and end."""
        ...


class TensorBoard:
    """TensorBoard events in the run's folder `tensorboard`; a resumed run hides what it rewound.

    Events are appended to a file, which object stores do not know: there the file is uploaded anew at every step.
    """

    def __init__(self, storage: Storage, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._storage = storage
        self._folder = None if storage.is_local else tempfile.TemporaryDirectory(prefix="gainrl-")
        local = storage.path if self._folder is None else self._folder.name
        self._writer = SummaryWriter(log_dir=f"{local}/{TENSORBOARD}", purge_step=first_step)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Write one scalar per number."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
        if self._folder is not None:
            self._storage.upload(Path(self._folder.name) / TENSORBOARD, TENSORBOARD)

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()
        if self._folder is not None:
            self._folder.cleanup()


class WeightsAndBiases:
    """A Weights & Biases run that continues under the run's name."""

    def __init__(self, project: str, run_name: str, config: Record) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._run = wandb.init(project=project, id=run_name, name=run_name, resume="allow", config=config)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Log the numbers at `step`."""
        self._run.log(numbers, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MLflow:
    """An MLflow run named like ours, continued when there is one."""

    def __init__(self, uri: str, run_name: str, config: Record) -> None:
        import mlflow  # pyright: ignore[reportMissingImports]

        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment("gainrl-ray")
        self._mlflow = mlflow
        found = mlflow.search_runs(
            experiment_names=["gainrl-ray"],
            filter_string=f"attributes.run_name = '{run_name}'",
            max_results=1,
            output_format="list",
        )
        mlflow.start_run(run_id=found[0].info.run_id if found else None, run_name=run_name)
        mlflow.log_dict(config, "config.json")

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Log the numbers at `step`."""
        self._mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in numbers.items()}, step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


def check_trackers(tracking: TrackingConfig) -> None:
    """Refuse a tracker whose package is not installed, before anything starts.

    Raises:
        ConfigError: names the setting and the package.
    """
    for key, package in (("wandb_project", "wandb"), ("mlflow_uri", "mlflow")):
        if getattr(tracking, key) and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"tracking.{key}={getattr(tracking, key)} needs the package {package}, which is not installed: "
                f"`uv pip install {package}` or set it to null"
            )


class MetricsWriter:
    """The run's records; the file is rewritten whole, atomically, so a reader never sees half a line."""

    def __init__(self, storage: Storage, tracking: TrackingConfig, run_name: str, config: Record) -> None:
        self._storage, self._tracking, self._run_name, self._config = storage, tracking, run_name, config
        self.records: list[Record] = read_metrics(storage)
        self._trackers: list[Tracker] | None = None

    def rewind(self, step: int) -> None:
        """Drop every record past `step` trained steps; at 0 the run begins anew and all go."""
        self.records = [record for record in self.records if 0 < step >= record["step"]]
        self._save()

    def log(self, record: Record) -> None:
        """Add the record of `record["step"]`; numbers that are not finite are stored as null."""
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        self.records.append(clean)
        self._save()
        if self._trackers is None:
            self._trackers = self._start_trackers(record["step"])
        numbers = {k: float(v) for k, v in clean.items() if isinstance(v, int | float) and k != "step"}
        for tracker in self._trackers:
            tracker.log(record["step"], numbers)

    def close(self) -> None:
        """End every tracker."""
        for tracker in self._trackers or []:
            tracker.close()
        self._trackers = None

    def _start_trackers(self, first_step: int) -> list[Tracker]:
        trackers: list[Tracker] = []
        if self._tracking.tensorboard:
            trackers.append(TensorBoard(self._storage, first_step))
        if self._tracking.wandb_project:
            trackers.append(WeightsAndBiases(self._tracking.wandb_project, self._run_name, self._config))
        if self._tracking.mlflow_uri:
            trackers.append(MLflow(self._tracking.mlflow_uri, self._run_name, self._config))
        return trackers

    def _save(self) -> None:
        lines = [json.dumps(record, allow_nan=False) + "\n" for record in self.records]
        self._storage.write_text(METRICS_FILE, "".join(lines))


def read_metrics(storage: Storage) -> list[Record]:
    """The records of a run's folder, in order; none when it has no metrics yet."""
    if not storage.exists(METRICS_FILE):
        return []
    return [json.loads(line) for line in storage.read_text(METRICS_FILE).splitlines() if line]
