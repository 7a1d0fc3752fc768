"""The run state on disk."""

from dataclasses import replace
from pathlib import Path

import pytest

from gainrl_ray.checkpoint import RunState, commit_due
from gainrl_ray.config import Config
from gainrl_ray.data.rollout_table import SCHEMA
from gainrl_ray.errors import DataError
from gainrl_ray.types import Window

STATE = RunState(
    step=10,
    attempt=3,
    curriculum={"mu": 1.5},
    group_policy={"name": "greso", "rows": [4]},
    windows=(Window(step=10, rows=(4, 2), problem_ids=("d", "b")),),
    drawn=(Window(step=10, rows=(4, 2, 7), problem_ids=("d", "b", "g")),),
)


def test_a_state_is_read_back_as_written(tmp_path: Path) -> None:
    for number, tables in enumerate(((), ("pending", "pending_replay"), ("pending", "pending_replay", "replay"))):
        state = replace(STATE, refills={10: number}, **{name: SCHEMA.empty_table() for name in tables})
        (folder := tmp_path / f"row={number}").mkdir()
        state.save(folder)
        assert RunState.load(folder) == state


def test_a_broken_state_says_which_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "run_state.json").write_text("{")
    with pytest.raises(DataError, match=r"no readable run_state.json.*continue from another checkpoint"):
        RunState.load(tmp_path)


@pytest.mark.parametrize(
    ("step", "stopped", "due"), [(10, False, True), (11, False, False), (11, True, True), (13, False, True)]
)
def test_commits_are_every_nth_the_last_and_at_a_stop(step: int, stopped: bool, due: bool) -> None:
    config = Config.model_validate({"run": {"steps": 13}, "checkpoint": {"every": 5}})
    assert (
        commit_due(RunState(step=step, attempt=1, curriculum={}, group_policy={}, windows=(), stopped=stopped), config)
        is due
    )
