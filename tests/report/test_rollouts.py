"""What is kept of a step's rollouts, and which are shown."""

from pathlib import Path

import numpy as np
import pytest
from report_samples import group, run_folder

from gainrl_ray.data.rollout_table import groups_to_table
from gainrl_ray.errors import DataError
from gainrl_ray.report.rollouts import SHOWN_CHARACTERS, RolloutReader, sample, shortened, summarise
from gainrl_ray.types import Outcome

RIGHT, WRONG, LOST = Outcome.CORRECT, Outcome.WRONG, Outcome.TIMEOUT


def test_a_step_s_figures() -> None:
    table = groups_to_table(4, [group(0, 9, [RIGHT, WRONG, WRONG, LOST]), group(1, 3, [RIGHT])])
    found = summarise(5, table, limit=100)
    assert (found.step, found.rows.tolist(), found.accuracy.tolist()) == (5, [9, 3], [0.25, 1.0])
    assert found.count == 5 and dict(found.outcomes) == {"correct": 2, "wrong": 2, "timeout": 1}
    # lengths 3, 3, 4, 5, 6
    assert found.length_quantiles.tolist() == pytest.approx([3.0, 3.0, 4.0, 5.0, 5.8])
    assert found.truncated == 0.0 and sum(map(len, found.samples)) == 5
    assert [row["tokens"] for row in found.samples[0]] == [3, 4, 5, 6]


def test_samples_are_whole_groups_spread_over_slots_and_steps() -> None:
    table = groups_to_table(0, [group(slot, slot, [RIGHT, WRONG]) for slot in range(40)])
    steps = [summarise(step, table, limit=20) for step in (1, 2)]
    shown = sample(steps, limit=16)
    assert len(shown) == 8 and all(len(rows) == 2 for _, rows in shown)
    for step in (1, 2):
        slots = [rows[0]["slot"] for at, rows in shown if at == step]
        assert slots == sorted(slots) and np.diff(slots).max() <= 20, "no half of the window is left out"
    assert sum(len(rows) for _, rows in sample(steps, limit=3)) == 2, "one rollout of each step"
    assert len(sample([summarise(step, table, limit=1) for step in range(1, 11)], limit=4)) == 4
    assert sample([]) == []


def test_long_texts_keep_their_begin_and_end() -> None:
    text = "a" * SHOWN_CHARACTERS + "b" * 1000
    short = shortened(text)
    assert len(short) < SHOWN_CHARACTERS + 60 and short.startswith("aaa") and short.endswith("bbb")
    assert "1,000 characters left out" in short and shortened("abc") == "abc"


def test_only_changed_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_folder(tmp_path / "run", 3)
    reader = RolloutReader(run)
    assert [step.step for step in reader.read(last_step=2)] == [1, 2], "step 3 is not complete"
    read: list[str] = []
    plain = type(run).read_table
    monkeypatch.setattr(type(run), "read_table", lambda self, name, *a: read.append(name) or plain(self, name, *a))
    run.child("rollouts").write_table("step_000001.parquet", groups_to_table(1, [group(0, 5, [RIGHT])]))
    steps = reader.read(last_step=3)
    assert read == ["step_000001.parquet", "step_000002.parquet"]
    assert steps[1].rows.tolist() == [5]
    run.child("rollouts").delete("step_000002.parquet")
    assert [step.step for step in reader.read(last_step=3)] == [1, 2]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", 2)
    (tmp_path / "run/rollouts/step_000001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"step_000001\.parquet cannot be read"):
        RolloutReader(run).read(last_step=2)
