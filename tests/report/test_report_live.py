"""The report beside training: when it is written, and that its errors end nothing."""

import json
import time
from pathlib import Path

import pytest
from report_samples import record, run_folder

from gainrl_ray.report import live
from gainrl_ray.report.live import reporting


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "POLL_S", 0.02)


def steps_shown(folder: Path) -> str:
    return (folder / "report.html").read_text().split("<dt>steps</dt><dd>")[1].split("<")[0]


def test_it_is_written_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    run, said = run_folder(tmp_path / "run", 2), []
    with reporting(run, 2, said.append):
        end = time.monotonic() + 20
        while not run.exists("report.html") and time.monotonic() < end:
            time.sleep(0.02)
        assert steps_shown(tmp_path / "run") == "2"
        first = run.stamp("report.html")
        run.write_text("metrics.jsonl", run.read_text("metrics.jsonl") + json.dumps(record(3)) + "\n")
        time.sleep(0.3)
        assert run.stamp("report.html") == first, "one step more is not two"
    assert steps_shown(tmp_path / "run") == "3"
    assert said == [f"report: {tmp_path}/run/report.html"]


def test_at_the_end_only_or_never(tmp_path: Path) -> None:
    run, said = run_folder(tmp_path / "run", 2), []
    with reporting(run, 0, said.append):
        time.sleep(0.2)
        assert not run.exists("report.html")
    assert run.exists("report.html")
    run.delete("report.html")
    with reporting(run, None, said.append):
        pass
    assert not run.exists("report.html")


def test_a_run_that_fails_has_its_report_and_its_own_error(tmp_path: Path) -> None:
    run, said = run_folder(tmp_path / "run", 2), []
    with pytest.raises(RuntimeError, match="diverged"), reporting(run, 0, said.append):
        raise RuntimeError("diverged")
    assert run.exists("report.html")


def test_an_error_of_the_report_is_a_line(tmp_path: Path) -> None:
    run, said = run_folder(tmp_path / "run", 2), []
    (tmp_path / "run/rollouts/step_000001.parquet").write_bytes(b"no parquet")
    with reporting(run, 0, said.append):
        pass
    assert len(said) == 1 and said[0].startswith("warning: the report was not written")
    assert "step_000001.parquet" in said[0]


def test_a_run_that_never_began_has_no_report(tmp_path: Path) -> None:
    run, said = run_folder(tmp_path / "run", 1), []
    run.delete("metrics.jsonl")
    with reporting(run, 1, said.append):
        pass
    assert said == [] and not run.exists("report.html")
