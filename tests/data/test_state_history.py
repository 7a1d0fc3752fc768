"""Commits write what is new, and a strategy restored from any of them goes on as the undisturbed one."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_strategy import EXAMPLES, build, outcome

from gainrl_ray.curricula.checked import CheckedStrategy
from gainrl_ray.data import state_history
from gainrl_ray.data.state_history import StateHistory
from gainrl_ray.errors import ConfigError, DataError
from gainrl_ray.storage import Storage
from gainrl_ray.types import SlotOutcome, StepOutcome

SIZE = 40


@pytest.fixture
def nothing_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_history, "INLINE_BYTES", 0)


def _step(step: int, strategy: CheckedStrategy, history: StateHistory) -> list[int]:
    rows = strategy.select(step, 8)
    observed = outcome(step, rows, (rows % 5 + step % 2) / 5)
    strategy.observe(observed)
    history.observed(observed)
    return rows.tolist()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_restored_strategy_goes_on_as_the_undisturbed_one(nothing_small: None, tmp_path: Path, name: str) -> None:
    """Stopped at every second step, whatever the commit there wrote; commits that were lost do no harm."""
    folder, every = Storage(str(tmp_path)), 2
    whole, unused = CheckedStrategy(build(name)), StateHistory(Storage(str(tmp_path / "unused")))
    expected = [_step(step, whole, unused) for step in range(14)]
    found, kept, kinds = [], None, set()
    for start in range(0, 14, every):
        strategy, history = CheckedStrategy(build(name)), StateHistory(folder)
        history.restore(start, kept, strategy)
        found += [_step(step, strategy, history) for step in range(start, start + every)]
        kept = history.commit(start + every, strategy)
        kinds |= {file.split("_")[0] for file in folder.list()}
        _step(start + every, strategy, history)
        history.commit(start + every + 1, strategy)
    assert found == expected
    knows_problems = name in ("adarft", "bandit", "bandit, bots", "dps")
    assert kinds == ({"state", "outcomes"} if knows_problems else {"state"})


def test_a_commit_writes_what_was_observed_since_the_last(tmp_path: Path) -> None:
    """dps keeps about 75 bytes of every problem shown, an outcome has 40: whole states come at thrice the step."""
    folder = Storage(str(tmp_path))
    strategy, history = CheckedStrategy(build("dps", size=100_000)), StateHistory(folder)
    for step in range(120):
        observed = outcome(step, range(128 * step, 128 * (step + 1)), 0.5)
        strategy.observe(observed)
        history.observed(observed)
        history.commit(step + 1, strategy)
    names = folder.list()
    wholes = [int(name[6:12]) for name in names if name.startswith("state_")]
    assert 2 <= len(wholes) <= 5 and all(later > 2 * earlier for earlier, later in pairwise(wholes))
    tables = [folder.read_table(name) for name in names if name.startswith("outcomes_")]
    assert len(tables) + len(wholes) + (wholes[0] - 1) == 120 and {table.num_rows for table in tables} == {128}
    written = sum((tmp_path / name).stat().st_size for name in names)
    assert written < 2.5 * 120 * 128 * 40


def test_a_small_state_is_in_the_checkpoint(tmp_path: Path) -> None:
    strategy, history = CheckedStrategy(build("dps")), StateHistory(Storage(str(tmp_path / "folder")))
    for step in range(6):
        _step(step, strategy, history)
        assert history.commit(step + 1, strategy) == {"state": strategy.state_dict()}
    assert not (tmp_path / "folder").exists()


def test_what_is_newer_than_the_restored_step_goes(nothing_small: None, tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    strategy, history = CheckedStrategy(build("dps")), StateHistory(folder)
    kept: list[dict[str, Any]] = []
    for step in range(12):
        _step(step, strategy, history)
        kept.append(history.commit(step + 1, strategy))
    every = folder.list()
    for name in ("notes.txt", "state_backup.json"):
        (tmp_path / name).write_text("a user's")
    with pytest.raises(ConfigError, match="start a new run"):
        StateHistory(folder).restore(6, kept[5], CheckedStrategy(build("adarft")))
    assert folder.list() == sorted([*every, "notes.txt", "state_backup.json"]), "what was refused lost nothing"
    StateHistory(folder).restore(6, kept[5], CheckedStrategy(build("dps")))
    older = [name for name in every if int(name.split(".")[0][-6:]) <= 6]
    assert folder.list() == sorted(["notes.txt", *older, "state_backup.json"])
    StateHistory(folder).restore(0, None, CheckedStrategy(build("dps")))
    assert folder.list() == ["notes.txt", "state_backup.json"]


def test_what_cannot_be_restored_says_what_is_missing(nothing_small: None, tmp_path: Path) -> None:
    strategy, history = CheckedStrategy(build("dps")), StateHistory(Storage(str(tmp_path)))
    _step(0, strategy, history)
    kept = history.commit(1, strategy)
    _step(1, strategy, history)
    assert history.commit(2, strategy) == kept == {"whole": 1}
    (tmp_path / "outcomes_000001_000002.parquet").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"outcome of step 1 is missing; continue from another checkpoint"):
        StateHistory(Storage(str(tmp_path))).restore(2, kept, CheckedStrategy(build("dps")))
    (tmp_path / "state_000001.json").write_text('{"strategy": "dps", ')
    with pytest.raises(DataError, match=r"state_000001.json is damaged .*continue from another checkpoint"):
        StateHistory(Storage(str(tmp_path))).restore(1, kept, CheckedStrategy(build("dps")))
    (tmp_path / "state_000001.json").unlink()
    with pytest.raises(DataError, match=r"state_000001.json does not exist"):
        StateHistory(Storage(str(tmp_path))).restore(1, kept, CheckedStrategy(build("dps")))


def test_outcomes_are_read_back_as_written() -> None:
    slots = [SlotOutcome(slot=slot, row=7 * slot, completions=8, accuracy=slot / 3, angle=0.3) for slot in (0, 2)]
    outcomes = [StepOutcome(step=step, slots=tuple(slots[: step - 2])) for step in (3, 4)]
    assert list(state_history._outcomes(state_history._table(outcomes))) == outcomes
    unmeasured = state_history._table([outcome(0, [1], 0.5, angle=np.nan)])
    assert np.isnan(next(state_history._outcomes(unmeasured)).slots[0].angle)
