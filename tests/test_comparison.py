"""A whole comparison on the tiny model: two runs on one pair of engines, a third that fails, a table."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from whole_runs import STEPS, Finished, assert_alike, settings

from gainrl_ray.comparing.command import Comparison
from gainrl_ray.comparing.grid import ArmEntry, GridFile, make_grid
from gainrl_ray.comparison import compare
from gainrl_ray.errors import ConfigError
from gainrl_ray.storage import Storage


def comparison(folder: Path, *arms: ArmEntry) -> Comparison:
    """One run at a time, over the settings of the `whole` run."""
    base = settings(folder)
    grid = make_grid("c", base, GridFile(arms=arms, seeds=1), folder)
    return Comparison(grid=grid, base=base, parallel=1, diagnose=False)


PART = {"fraction": 0.5, "keep": "bottom:20", "keep_by": "label"}
UNIFORM = ArmEntry(name="uniform", overrides={"curriculum": {"name": "uniform"}, "data": PART})
GAIN = ArmEntry(name="gain")
BROKEN = ArmEntry(name="broken", overrides={"curriculum": {"name": "length"}})


@contextmanager
def seen(title: str) -> Iterator[set[int]]:
    """The processes of this title that lived during the block."""
    found: set[int] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    if title in " ".join(process.cmdline()):
                        found.add(process.pid)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield found
    over.set()
    thread.join(10)


def check_part(run: Path) -> None:
    """Of a random half, 32 problems of levels 1 and 2, the run drew from the 20 easiest alone."""
    (rows,) = (np.load(path) for path in run.glob("rows-*.npy"))
    kept = [f"arithmetic-train-0-{1 + row % 2}-{row // 2}" for row in rows]  # levels in turn
    assert len(kept) == 20
    for step in range(STEPS):
        table = pq.read_table(run / f"rollouts/step_{step:06d}.parquet")
        assert [kept[row] for row in table["row"].to_pylist()] == table["problem_id"].to_pylist()


def test_a_comparison_keeps_its_engines_lists_what_failed_and_is_continued(whole: Finished) -> None:
    folder = whole.folder.parent
    damaged = Storage(str(folder)).child("c.broken.0")
    damaged.write_text("metrics.jsonl", json.dumps({"step": 1}) + "\n")
    damaged.write_text("config.yaml", "run: {steps: 9}\nloss: {kl_coef: 0.5}\n")
    lines: list[str] = []
    with seen("RolloutServer") as engines:
        found = compare(comparison(folder, BROKEN, UNIFORM, GAIN), lines.append)
    (failure,) = found.table["failed"]
    assert failure["strategy"] == "broken" and "loss.kl_coef: 0.5 -> 0\n" in failure["error"]
    assert len(engines) == 1, "the second run had the engines of the first"
    # Weights of the run before would be noticed: its windows, rewards and policy are those of a run by itself.
    assert_alike(Finished(folder / "c.gain.0", []), whole)

    check_part(folder / "c.uniform.0")
    assert "train: 20 of these 64 problems: a random 0.5 (run.seed 0), of these bottom:20 by label" in lines
    rows = {row["strategy"]: row for row in found.table["rows"]}
    assert [rows[name]["runs"] for name in ("uniform", "gain", "broken")] == [1, 1, 0]
    assert found.unfinished == 0 and any("3 of 3 runs done" in line for line in lines)
    results = Storage(found.folder)
    curves = results.read_table("curves.parquet").to_pylist()
    assert [(row["strategy"], row["step"]) for row in curves] == [
        (arm, step) for arm in ("uniform", "gain") for step in range(STEPS + 1)
    ]
    charged = {row["strategy"]: row["scoring_seconds"] for row in curves}
    assert charged["gain"] > 0 and charged["uniform"] == 0, "also of an index that was there before"
    assert json.loads(results.read_text("table.json")) == found.table
    assert "| uniform " in results.read_text("table.md") and "plotly.js v" in results.read_text("report.html")

    lines.clear()
    again = compare(comparison(folder, BROKEN, UNIFORM, GAIN), lines.append)
    assert [line for line in lines if line.endswith("begins")] == ["[3/3] broken, seed 0: begins"]
    assert again.table == found.table
    other = UNIFORM.model_copy(update={"overrides": {**UNIFORM.overrides, "optimizer": {"lr": 1e-3}}})
    with pytest.raises(ConfigError, match=r"arm uniform: optimizer.lr: 0.0001 -> 0.001\n.*arm gain: was there"):
        compare(comparison(folder, other), lines.append)
