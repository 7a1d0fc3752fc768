"""Whole runs on the tiny model: what they leave, and that a killed or resumed one is as good as an undisturbed one."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from whole_runs import STEPS, Finished, assert_alike, run, settings

from gainrl_ray.config import Config
from gainrl_ray.errors import ConfigError, DataError, ResourceError
from gainrl_ray.evaluation import evaluate
from gainrl_ray.metrics import read_metrics
from gainrl_ray.report.provenance import read_order
from gainrl_ray.storage import Storage
from gainrl_ray.training import RunSummary, summary


@pytest.fixture(scope="module")
def folder(whole: Finished) -> Path:
    """The storage of all runs here, which share the index."""
    return whole.folder.parent


def test_a_run_leaves_what_the_readme_says(whole: Finished) -> None:
    records = read_metrics(Storage(str(whole.folder)))
    assert [record["step"] for record in records] == list(range(STEPS + 1))
    assert [r["step"] for r in records if "eval/accuracy" in r] == [0, 2, 4]
    assert all(0 <= r["accuracy"] <= 1 and r["seconds/total"] > 0 for r in records[1:])
    for step in range(STEPS):
        table = pq.read_table(whole.folder / f"rollouts/step_{step:06d}.parquet")
        assert table.num_rows == 24 and set(table["policy_version"].to_pylist()) == {step}
    assert "plotly.js v" in (whole.folder / "report.html").read_text() and whole.lines[-1].startswith("report: ")
    ordering = read_order(Storage(str(whole.folder)))
    assert ordering is not None and (ordering.problems, ordering.signal, ordering.lost) == (64, "angle", False)
    assert '"ray": "2.60.0"' in (whole.folder / "environment.json").read_text()
    assert (whole.folder / "config.yaml").exists() and list((whole.folder / "tensorboard").iterdir())
    assert sum(line.startswith("step ") for line in whole.lines) == STEPS
    folder, model = str(whole.folder), f"{whole.folder}/model"
    text = summary(
        RunSummary(name="whole", folder=folder, model=model, records=tuple(records), seconds=1.0, stopped=False)
    )
    assert "held-out accuracy" in text and "held-out avg@2" in text and model in text


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
    last = read_metrics(Storage(str(whole.folder)))[-1]
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
def kill_after() -> Iterator[Callable[[Path, int, str], None]]:
    """SIGKILL for a Ray worker of a title as soon as a run's metrics hold a step."""
    threads: list[threading.Thread] = []
    done: list[int] = []

    def arrange(run_folder: Path, step: int, title: str) -> None:
        def wait() -> None:
            end = time.monotonic() + 180
            while time.monotonic() < end:
                if any(record["step"] >= step for record in read_metrics(Storage(str(run_folder)))):
                    os.kill(descendants(title)[0].pid, signal.SIGKILL)
                    done.append(step)
                    return
                time.sleep(0.02)

        threads.append(threading.Thread(target=wait, daemon=True))
        threads[-1].start()

    yield arrange
    for thread in threads:
        thread.join(timeout=200)
    assert len(done) == len(threads), "not everything was killed"


def test_a_run_goes_on_under_its_name_and_after_a_killed_learner(whole: Finished, folder: Path, kill_after) -> None:
    """And with weights that are broadcast, where the other run has the engines pull them."""
    broadcast = {"backend": "broadcast"}
    half = run(settings(folder, run={"steps": 2}, sync=broadcast), "continued")
    assert len(half.path("accuracy")) == 2
    with pytest.raises(ConfigError, match="has finished its 2 steps"):
        run(settings(folder, run={"steps": 2}, sync=broadcast), "continued")
    with pytest.raises(ConfigError, match=r"optimizer.lr: 0.0001 -> 0.0002"):
        run(settings(folder, optimizer={"lr": 2e-4}, sync=broadcast), "continued")
    kill_after(folder / "continued", 3, "RayTrainWorker")
    rest = run(settings(folder, sync=broadcast), "continued")
    assert any("after step 2 (attempt 3)" in line for line in rest.lines)
    assert len(rest.path("seconds/store")) == STEPS, "each version went out by broadcast, and to the store behind it"
    assert_alike(rest, whole)


def test_a_killed_engine_and_a_killed_learner_cost_nothing_but_time(folder: Path, kill_after) -> None:
    """With generation a step ahead, refilled steps and replayed groups."""
    policy, replay = {"name": "dynamic_sampling"}, {"fraction": 0.34}
    config = settings(folder, rollout={"max_staleness": 1}, group_policy=policy, replay=replay)
    undisturbed = run(config, "ahead")
    kill_after(folder / "killed", 1, "RolloutServer")
    kill_after(folder / "killed", 3, "RayTrainWorker")
    killed = run(config, "killed")
    assert any("attempt 2" in line for line in killed.lines)
    assert_alike(killed, undisturbed)
    assert sum(undisturbed.path("refill_rounds")) > 0 and max(undisturbed.path("replayed_groups")) == 2
    for key in ("generated_groups", "refill_rounds", "replayed_groups", "trained_tokens", "total/tokens"):
        assert killed.path(key) == undisturbed.path(key), key


def test_engines_that_share_the_learners_device_change_nothing(whole: Finished, folder: Path, kill_after) -> None:
    """In turns with the learner, which is killed, and with its memory opened by the engine."""
    kill_after(folder / "turns", 3, "RayTrainWorker")
    turns = run(settings(folder, rollout={"colocated": True}, sync={"backend": "ipc"}), "turns")
    assert any("attempt 2" in line for line in turns.lines)
    assert_alike(turns, whole)
    assert all(seconds > 0 for seconds in turns.path("seconds/store")), "after every step the engine came first"


def test_what_cannot_start_leaves_the_run_as_it_was(whole: Finished, tmp_path: Path) -> None:
    """A finished run, to be continued by an order that is of another dataset."""
    shutil.copytree(whole.folder, tmp_path / "whole")
    (tmp_path / "order.json").write_text("[0, 1, 2]")
    before = {path: path.read_bytes() for path in sorted((tmp_path / "whole").rglob("*")) if path.is_file()}
    order = {"name": "external", "path": str(tmp_path / "order.json")}
    config = settings(tmp_path, run={"steps": STEPS + 1, "allow_changed": True})
    broken = Config.model_validate(config.model_dump() | {"curriculum": order})
    with pytest.raises(DataError, match=r"order\.json has 3 entries and data\.train has 64 problems"):
        run(broken, "whole")
    assert {path: path.read_bytes() for path in sorted((tmp_path / "whole").rglob("*")) if path.is_file()} == before


def test_what_cannot_be_placed_is_refused_at_once(folder: Path) -> None:
    with pytest.raises(ResourceError, match=r"GPU: needed 1 \(1 engine x 1\)"):
        run(settings(folder, rollout={"gpus_per_engine": 1}), "short")
