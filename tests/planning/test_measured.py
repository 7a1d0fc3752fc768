"""Costs fitted from a run's folder: a run made of known costs gives them back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gainrl_ray.cli import to_yaml
from gainrl_ray.config import Config
from gainrl_ray.errors import ConfigError, DataError
from gainrl_ray.planning.measured import Fit, Measured, compare, fit, measured_costs, nonnegative_fit, read_run

PROMPT, PREFIX = 130, 110


def settings(**rollout: Any) -> Config:
    tree = {"rollout": {"problems_per_step": 8, "group_size": 4, "max_new_tokens": 40, **rollout}}
    return Config.model_validate(tree | {"data": {"heldout": {"limit": 6}}, "curriculum": {"name": "uniform"}})


def run_folder(folder: Path, config: Config, *, slow: frozenset[int] = frozenset()) -> str:
    """A run whose decode step takes 4 ms + 0.5 ms a sequence, a trained token 1 ms, an update 0.3 s.

    The steps in `slow` took three times as long.
    """
    rng = np.random.default_rng(1)
    (folder / "rollouts").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    problems, size = config.rollout.problems_per_step, config.rollout.group_size
    records: list[dict[str, Any]] = []
    for step in range(1, 9):
        lengths = rng.integers(1, config.rollout.max_new_tokens + 1, (problems, size))
        rewards = np.tile(np.arange(size) % 2, (problems, 1)).astype(float)
        rewards[: step % 3] = 1.0  # groups without signal
        table = pa.table(
            {
                "slot": np.repeat(np.arange(problems), size),
                "token_ids": [[0] * count for count in lengths.ravel().tolist()],
                "reward": rewards.ravel(),
            }
        )
        pq.write_table(table, folder / "rollouts" / f"step_{step - 1:06d}.parquet")
        trained = lengths[step % 3 :]
        decoded = lengths.sum() + 0.5 * problems * (PROMPT - PREFIX + (size - 1) * 8)
        times = {
            "generate": 0.004 * lengths.max() + 0.0005 * decoded,
            # A prompt and its completions are one line, and all lines one padded micro-batch.
            "train": 0.001 * len(trained) * (PROMPT + trained.sum(axis=1).max()) + 0.3,
            "sync": 0.05,
            "grade": 0.0,
            "evaluate": 0.0,
            "wait": 0.01,
        }
        times = {name: seconds * (3 if step in slow else 1) for name, seconds in times.items()}
        records.append(
            {
                **{"step": step, "informative_groups": len(trained) / problems},
                **{"prompt_tokens": float(PROMPT), "prefix_tokens": PREFIX},
                **{f"seconds/{name}": seconds for name, seconds in times.items()},
                "seconds/total": sum(times.values()),
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(folder)


def test_known_costs_come_back(tmp_path: Path) -> None:
    fitted = fit([read_run(run_folder(tmp_path / "a", settings(), slow=frozenset({3})))])
    assert fitted.decode.fixed_s == pytest.approx(0.004, rel=1e-3)
    assert fitted.decode.sequence_s == pytest.approx(0.0005, rel=1e-3)
    assert fitted.line_s == pytest.approx(0.001, rel=1e-3)
    assert fitted.update_s == pytest.approx(0.3, rel=1e-3)
    assert (fitted.sync_s, fitted.rest_s) == (0.05, 0.01)


@pytest.mark.parametrize("section", [{"group_policy": {"name": "speed", "screen": 2}}, {"replay": {"fraction": 0.5}}])
def test_a_run_whose_steps_are_not_their_windows_is_refused(tmp_path: Path, section: dict[str, dict]) -> None:
    config = Config.model_validate(settings().model_dump() | section)
    with pytest.raises(ConfigError, match=r"measure one with all and 0"):
        read_run(run_folder(tmp_path / "a", config))


def test_a_run_predicts_another_of_the_same_costs(tmp_path: Path) -> None:
    fitted = fit([read_run(run_folder(tmp_path / "a", settings()))])
    other = read_run(run_folder(tmp_path / "b", settings(problems_per_step=16)))
    for name, predicted, measured in compare(fitted, other, cores=2.0):
        assert predicted == pytest.approx(measured, rel=0.12), name


def test_two_engines_share_the_cores_of_one_machine(tmp_path: Path) -> None:
    run = read_run(run_folder(tmp_path / "a", settings(threads_per_engine=2)))
    two = run.config.model_copy(update={"rollout": run.config.rollout.model_copy(update={"engines": 2})})
    assert measured_costs(fit([run]), two).demand.engine == 2.0
    both = {cores: predicted(fit([run]), replace(run, config=two), cores) for cores in (2.0, 4.0)}
    assert both[2.0]["generate"] == pytest.approx(2 * both[4.0]["generate"], rel=0.15)


def predicted(fitted: Fit, run: Measured, cores: float) -> dict[str, float]:
    return {name: seconds for name, seconds, _ in compare(fitted, run, cores)}


def test_runs_of_unlike_sizes_are_fitted_together(tmp_path: Path) -> None:
    runs = [
        read_run(run_folder(tmp_path / str(count), settings(problems_per_step=count), slow=frozenset({2, 5, 8})))
        for count in (16, 4)
    ]
    fitted = fit(runs)
    assert fitted.config.rollout.problems_per_step == 16
    assert (fitted.line_s, fitted.update_s) == pytest.approx((0.001, 0.3), rel=1e-3)
    threads = read_run(run_folder(tmp_path / "t", settings(threads_per_engine=2)))
    with pytest.raises(ConfigError, match=r"rollout\.threads_per_engine: 1 -> 2"):
        fit([*runs, threads])


def test_coefficients_are_never_negative() -> None:
    features = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]])
    slope, offset = nonnegative_fit(features, np.array([1.0, 2.2, 3.4]))  # a line from -0.2
    assert offset == 0
    assert slope == pytest.approx(1.1, rel=0.05)


def test_runs_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: expected a run's folder"):
        read_run(str(tmp_path / "nothing"))
    overlapping = read_run(run_folder(tmp_path / "a", settings(max_staleness=1)))
    with pytest.raises(ConfigError, match=r"max_staleness=0"):
        fit([overlapping])
    run = read_run(run_folder(tmp_path / "b", settings()))
    other = run.config.model_copy(update={"model": run.config.model.model_copy(update={"path": "other/model"})})
    with pytest.raises(ConfigError, match=r"model\.path: tiny -> other/model"):
        measured_costs(fit([run]), other)
    (tmp_path / "b/rollouts/step_000003.parquet").unlink()
    with pytest.raises(DataError, match=r"step_000003\.parquet is missing"):
        read_run(str(tmp_path / "b"))
