"""The run state: all that a resume needs beside the learner's own shards."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gainrl_ray.config import Config
from gainrl_ray.errors import DataError
from gainrl_ray.types import Window

STATE_FILE = "run_state.json"
TABLE_FILES = {
    "pending": "pending_groups.parquet",
    "pending_replay": "pending_replay.parquet",
    "replay": "replay_buffer.parquet",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """The run after `step` trained steps (= the policy version).

    `windows` are planned and not trained: steps `step` to `step + max_staleness`. `pending` holds the graded
    groups of those among them whose generating policy is gone (max_staleness > 0), as a rollout table: of them `drawn`
    has all problems, those of refills after the window's, `pending_replay` the groups trained beside them and `refills`
    their rounds of refilling.
    `replay` is the replay buffer. The tables, and `curriculum`, what the curriculum's `commit` gave, are there in
    states that are committed.
    """

    step: int
    attempt: int
    group_policy: dict[str, Any]
    windows: tuple[Window, ...]
    curriculum: dict[str, Any] | None = None
    drawn: tuple[Window, ...] = ()
    pending: pa.Table | None = None
    pending_replay: pa.Table | None = None
    refills: dict[int, int] = field(default_factory=dict)  # by step
    replay: pa.Table | None = None
    metrics: dict[str, float] = field(default_factory=dict)  # of the last step, for the trainer's report
    is_best: bool = False  # the held-out accuracy in `metrics` is the run's highest
    stopped: bool = False  # a stop was asked for: commit and end

    def save(self, folder: Path) -> None:
        """Write the state into `folder`."""
        values = {
            "step": self.step,
            "attempt": self.attempt,
            "curriculum": self.curriculum,
            "group_policy": self.group_policy,
            "windows": [asdict(window) for window in self.windows],
            "drawn": [asdict(window) for window in self.drawn],
            "refills": list(self.refills.items()),
        }
        (folder / STATE_FILE).write_text(json.dumps(values))
        for name, file in TABLE_FILES.items():
            if (table := getattr(self, name)) is not None:
                pq.write_table(table, folder / file)

    @classmethod
    def load(cls, folder: Path) -> "RunState":
        """The state in `folder`.

        Raises:
            DataError: the folder holds no readable run state.
        """
        try:
            values = json.loads((folder / STATE_FILE).read_text())
            return cls(
                step=values["step"],
                attempt=values["attempt"],
                curriculum=values["curriculum"],
                group_policy=values["group_policy"],
                windows=tuple(map(_window, values["windows"])),
                drawn=tuple(map(_window, values["drawn"])),
                refills=dict(values["refills"]),
                **{
                    name: pq.ParquetFile(folder / file).read()  # `read_table` takes folders named a=b for columns
                    for name, file in TABLE_FILES.items()
                    if (folder / file).exists()
                },
            )
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"the checkpoint {folder} has no readable {STATE_FILE} ({error}): "
                "continue from another checkpoint or start a run under a new name"
            ) from error


def _window(values: dict[str, Any]) -> Window:
    return Window(step=values["step"], rows=tuple(values["rows"]), problem_ids=tuple(values["problem_ids"]))


def commit_due(state: RunState, config: Config) -> bool:
    """Whether a checkpoint is committed after this state's last step: every n-th, the last, or when stopping."""
    return state.step % config.checkpoint.every == 0 or state.step == config.run.steps or state.stopped
