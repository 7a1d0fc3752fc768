"""Whole runs on the tiny model: real Ray, vLLM and DeepSpeed; resumed, killed and compared with an undisturbed one."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch

from gainrl_ray.config import Config
from gainrl_ray.errors import ConfigError, ResourceError
from gainrl_ray.evaluation import evaluate
from gainrl_ray.metrics import Record, read_metrics
from gainrl_ray.storage import Storage
from gainrl_ray.training import RunSummary, summary, train

STEPS = 4


def settings(folder: Path, **sections: dict[str, Any]) -> Config:
    tree: dict[str, Any] = {
        "run": {"storage": str(folder), "steps": STEPS},
        "model": {"path": "tiny", "dtype": "float32"},
        "data": {
            "train": {"path": "arithmetic", "limit": 64, "max_level": 2},
            "heldout": {"path": "arithmetic", "split": "heldout", "limit": 8, "max_level": 2},
        },
        "curriculum": {"name": "gain", "sigma": 0.2, "mu_step_scale": 0.2},
        "rollout": {"problems_per_step": 6, "group_size": 4, "max_new_tokens": 48, "stall_deadline_s": 60},
        "sync": {"verify_every": 2, "verify_tolerance": 0.001},
        "optimizer": {"lr": 1e-4},
        "learner": {"zero_stage": 2},
        "evaluation": {"every": 2, "samples": 2},
        "checkpoint": {"every": 2},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return Config.model_validate(tree)


@dataclass(frozen=True)
class Finished:
    """A run's summary with what it printed."""

    run: RunSummary
    lines: list[str]

    @property
    def folder(self) -> Path:
        return Path(self.run.folder)

    def history(self) -> list[tuple]:
        """What the curriculum did in the committed history."""
        ledger = json.loads((self.folder / "ledger.json").read_text())
        live = [e for e in ledger if not e["discarded"] and e["step"] < STEPS]
        return [(e["step"], e["problem_ids"], e["statuses"], e["policy_version"]) for e in live]

    def path(self, key: str) -> list[float]:
        return [record[key] for record in self.run.records if record["step"] > 0]

    def weights(self) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return load_file(self.folder / "model" / "model.safetensors")


def run(config: Config, name: str) -> Finished:
    lines: list[str] = []
    return Finished(train(config, name, lines.append), lines)


def assert_alike(one: Finished, other: Finished) -> None:
    """The same windows, mu path, rewards and, to 1e-5, weights."""
    assert one.history() == other.history()
    for key in ("curriculum/mu", "accuracy", "reward"):
        assert one.path(key) == pytest.approx(other.path(key), abs=1e-9), key
    weights = other.weights()
    for name, tensor in one.weights().items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(ray_session: None, folder: Path) -> Finished:
    """An undisturbed run."""
    return run(settings(folder), "whole")


def test_a_run_leaves_what_the_readme_says(whole: Finished) -> None:
    records = read_metrics(Storage(str(whole.folder)))
    assert [record["step"] for record in records] == list(range(STEPS + 1))
    assert [r["step"] for r in records if "eval/accuracy" in r] == [0, 2, 4]
    assert all(0 <= r["accuracy"] <= 1 and r["seconds/total"] > 0 for r in records[1:])
    for step in range(STEPS):
        table = pq.read_table(whole.folder / f"rollouts/step_{step:06d}.parquet")
        assert table.num_rows == 24 and set(table["policy_version"].to_pylist()) == {step}
    assert (whole.folder / "config.yaml").exists() and list((whole.folder / "tensorboard").iterdir())
    assert sum(line.startswith("step ") for line in whole.lines) == STEPS
    text = summary(whole.run)
    assert "held-out accuracy" in text and "held-out avg@2" in text and f"{whole.folder}/model" in text


def test_the_exported_policy_is_the_trained_one(whole: Finished) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(whole.folder / "model")
    start = AutoModelForCausalLM.from_pretrained(Path(__file__).parents[1] / "gainrl_ray/model/tiny")
    moved = [(a - b).abs().max().item() for a, b in zip(model.parameters(), start.parameters(), strict=True)]
    assert 0 < max(moved) < 0.01
    assert AutoTokenizer.from_pretrained(whole.folder / "model")("1+1")["input_ids"]


def test_the_exported_policy_is_served_and_graded_alike(whole: Finished, folder: Path) -> None:
    config = settings(folder, model={"path": str(whole.folder / "model")})
    figures = evaluate(config, "whole", lambda line: None)
    last = whole.run.evaluations[-1]
    assert figures["eval/accuracy"] == last["eval/accuracy"] and figures["eval/avg@2"] == last["eval/avg@2"]
    stored = json.loads((folder / "evaluations/whole.json").read_text())
    assert stored["problems"] == 8 and stored["eval/accuracy"] == figures["eval/accuracy"]


def test_checkpoints_are_bounded(whole: Finished) -> None:
    assert len([path for path in whole.folder.iterdir() if path.is_dir() and path.name.startswith("checkpoint_")]) <= 2


def descendants(title: str) -> list[psutil.Process]:
    """Ray workers of this process's session whose title holds `title`."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def when_step() -> Iterator[Callable[[Path, int, Callable[[], None]], None]]:
    """Do something once a run's metrics hold a step."""
    threads: list[threading.Thread] = []
    done: list[int] = []

    def arrange(run_folder: Path, step: int, action: Callable[[], None]) -> None:
        def wait() -> None:
            end = time.monotonic() + 180
            while time.monotonic() < end:
                records: list[Record] = read_metrics(Storage(str(run_folder)))
                if any(record["step"] >= step for record in records):
                    action()
                    done.append(step)
                    return
                time.sleep(0.02)

        threads.append(threading.Thread(target=wait, daemon=True))
        threads[-1].start()

    yield arrange
    for thread in threads:
        thread.join(timeout=200)
    assert len(done) == len(threads), "not everything was killed"


def kill_one(title: str) -> Callable[[], None]:
    def kill() -> None:
        os.kill(descendants(title)[0].pid, signal.SIGKILL)

    return kill


def test_a_killed_engine_and_a_killed_learner_cost_nothing_but_time(ray_session: None, folder: Path, when_step) -> None:
    """With generation a step ahead, the harder case; the next test resumes strictly on-policy runs."""
    config = settings(folder, rollout={"max_staleness": 1})
    undisturbed = run(config, "ahead")
    when_step(folder / "killed", 1, kill_one("RolloutServer"))
    when_step(folder / "killed", 3, kill_one("RayTrainWorker"))
    killed = run(config, "killed")
    assert any("attempt 2" in line for line in killed.lines)
    assert_alike(killed, undisturbed)


@pytest.mark.slow
def test_a_run_goes_on_under_its_name(whole: Finished, folder: Path) -> None:
    half = run(settings(folder, run={"steps": 2}), "continued")
    assert half.run.records[-1]["step"] == 2
    with pytest.raises(ConfigError, match="has finished its 2 steps"):
        run(settings(folder, run={"steps": 2}), "continued")
    with pytest.raises(ConfigError, match=r"optimizer.lr: 0.0001 -> 0.0002"):
        run(settings(folder, optimizer={"lr": 2e-4}), "continued")
    assert_alike(run(settings(folder), "continued"), whole)


@pytest.mark.slow
def test_two_learners_and_two_engines_do_the_same_first_step(whole: Finished, folder: Path) -> None:
    config = settings(folder, run={"steps": 1}, learner={"workers": 2, "zero_stage": 3}, rollout={"engines": 2})
    other = run(config, "wide")
    assert other.history()[0] == whole.history()[0]
    files = [finished.folder / "rollouts/step_000000.parquet" for finished in (whole, other)]
    assert pq.read_table(files[0])["completion"].to_pylist() == pq.read_table(files[1])["completion"].to_pylist()
    assert other.path("loss")[0] == pytest.approx(whole.path("loss")[0], abs=1e-6)


def test_what_cannot_be_placed_is_refused_at_once(ray_session: None, folder: Path) -> None:
    with pytest.raises(ResourceError, match=r"GPU: needed 1 \(1 engine x 1\)"):
        run(settings(folder, rollout={"gpus_per_engine": 1}), "short")
