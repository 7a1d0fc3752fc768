import os
import subprocess
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from gainrl_ray.benchmarks import scale
from gainrl_ray.benchmarks.scale import PARTS, Sample, _descendants, _is_ours, by_part, resident_mib, run
from gainrl_ray.config import Config
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.model.loading import check_model, load_model
from gainrl_ray.model.prefill import prefill_angles
from gainrl_ray.scoring import Watch
from gainrl_ray.storage import Storage


def test_tenths_are_of_the_rows_between_samples() -> None:
    # 100 rows in 10 s, then 100 in 40 s: the first five tenths at 10 rows/s, the others at 2.5.
    parts = by_part([Sample(0, 0.0, 50.0, 0.0), Sample(100, 10.0, 60.0, 5.0), Sample(200, 50.0, 70.0, 6.0)])
    assert len(parts) == PARTS
    speeds = [part["rows/s"] for part in parts.values()]
    assert speeds == pytest.approx([10.0] * 5 + [2.5] * 5)
    assert [part["driver, MiB"] for part in parts.values()] == [50.0] * 4 + [60.0] * 5 + [70.0]


def test_memory_is_that_of_a_process() -> None:
    assert resident_mib() == pytest.approx(resident_mib(str(os.getpid())), rel=0.1)
    assert resident_mib() > 10
    assert resident_mib("no such process") == 0.0
    assert resident_mib(field="VmHWM") >= resident_mib()


def test_only_processes_started_here_are_watched() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert str(child.pid) in _descendants("sleep")
    finally:
        child.kill()
        child.wait()
    assert not _is_ours("1")


def test_what_is_run_can_be_scored_and_is_watched(tmp_path, monkeypatch) -> None:
    def score_in_this_process(config: Config, watch: Watch) -> SimpleNamespace:
        prompts = PromptBuilder(check_model(config.model), config.data.prompt)
        storage = Storage(config.run.storage)
        table = prepare_problems(config.data.train, prompts=prompts, on_bad_row="error", storage=storage)
        assert [table.problem(row).answer for row in (0, 989, 990)] == ["10", "999", "11"]
        scores = prefill_angles(load_model(config.model), [table.prompt(row) for row in range(3)], 0, 100)
        watch("scored", 0)
        watch("scored", len(table))
        return SimpleNamespace(index=[*range(len(table))], scores=scores)

    monkeypatch.setattr(scale, "score", score_in_this_process)
    monkeypatch.setattr(scale, "session", lambda _: nullcontext())
    figures = run(tmp_path, 1000)
    assert figures["problems"] == 1000
    assert figures["driver, MiB"]["at the start"] > 10
    assert [part["rows/s"] > 0 for part in figures["scored"].values()] == [True] * PARTS
