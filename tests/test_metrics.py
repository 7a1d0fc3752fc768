"""metrics.jsonl: whole lines, rewound with the run."""

import json
from pathlib import Path

import pytest

from gainrl_ray.config import TrackingConfig
from gainrl_ray.errors import ConfigError
from gainrl_ray.metrics import MetricsWriter, check_trackers, read_metrics
from gainrl_ray.storage import Storage


def writer(folder: Path, tensorboard: bool = False) -> MetricsWriter:
    return MetricsWriter(Storage(str(folder)), TrackingConfig(tensorboard=tensorboard), "run", {})


def test_records_are_json_lines_and_nan_is_null(tmp_path: Path) -> None:
    writer(tmp_path).log({"step": 1, "angle": float("nan"), "accuracy": 0.5})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "angle": None, "accuracy": 0.5}]


def test_a_rewind_drops_what_is_past_the_step(tmp_path: Path) -> None:
    first = writer(tmp_path)
    for step in range(4):
        first.log({"step": step})
    again = writer(tmp_path)
    again.rewind(2)
    again.log({"step": 3, "again": 1})
    assert read_metrics(Storage(str(tmp_path))) == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3, "again": 1}]
    again.rewind(0)
    assert read_metrics(Storage(str(tmp_path))) == []


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = writer(tmp_path, tensorboard=True)
    metrics.log({"step": 1, "accuracy": 0.25, "note": "text"})
    metrics.log({"step": 2, "accuracy": 0.75})
    metrics.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("accuracy")] == [(1, 0.25), (2, 0.75)]


@pytest.mark.parametrize(("key", "package"), [("wandb_project", "wandb"), ("mlflow_uri", "mlflow")])
def test_a_tracker_without_its_package_is_refused_before_anything_starts(key: str, package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is not None:
        check_trackers(TrackingConfig.model_validate({key: "x"}))
    else:
        with pytest.raises(ConfigError, match=f"tracking.{key}=x needs the package {package}"):
            check_trackers(TrackingConfig.model_validate({key: "x"}))
