"""What a report keeps of each step's rollouts: figures of all of them, and some in full."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gainrl_ray.run_record import ROLLOUTS
from gainrl_ray.storage import Storage
from gainrl_ray.types import Outcome

SHOWN_ROLLOUTS = 2000
"""Most rollouts that a page shows in full."""
SHOWN_CHARACTERS = 4000
"""Most characters of a question or completion that a page shows."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_FILE = re.compile(r"step_(\d+)\.parquet")
_GOLDEN = (5**0.5 - 1) / 2
_COLUMNS = (
    *("slot", "sample", "row", "problem_id", "question", "answer", "completion", "reward", "outcome"),
    *("finish_reason", "policy_version", "token_ids"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRollouts:
    """One step's rollouts; `step` counts from 1 as metrics do, so that step 1 is file step_000000."""

    step: int
    rows: np.ndarray  # [groups] int64 dataset row of each group
    accuracy: np.ndarray  # [groups] float64 share of correct rollouts
    length_quantiles: np.ndarray  # [len(QUANTILES)] completion tokens
    outcomes: Counter[str]
    truncated: float  # share that reached max_new_tokens
    samples: tuple[tuple[dict[str, Any], ...], ...]  # some groups, each a row per rollout; any prefix is spread out

    @property
    def count(self) -> int:
        """Number of rollouts."""
        return self.outcomes.total()


class RolloutReader:
    """The rollouts of a run that may be going on: files that have not changed are not read again."""

    def __init__(self, run: Storage) -> None:
        self._folder = run.child(ROLLOUTS)
        self._known: dict[str, tuple[str, StepRollouts]] = {}

    def read(self, last_step: int) -> list[StepRollouts]:
        """Every step up to `last_step`, in order. Raises DataError for a file that cannot be read."""
        files = {name: stamp for name, stamp in self._files().items() if _step(name) <= last_step}
        limit = max(1, SHOWN_ROLLOUTS // max(len(files), 1))
        for name in self._known.keys() - files.keys():
            del self._known[name]
        for name, stamp in files.items():
            if name in self._known and self._known[name][0] == stamp:
                kept = self._known[name][1]
                self._known[name] = stamp, replace(kept, samples=_at_most(limit, kept.samples))
            else:
                table = self._folder.read_table(name, _COLUMNS)
                self._known[name] = stamp, summarise(_step(name), table, limit)
        return [self._known[name][1] for name in sorted(files)]

    def _files(self) -> dict[str, str]:
        """File name -> its stamp."""
        return {name: self._folder.stamp(name) for name in self._folder.list() if _FILE.fullmatch(name)}


def summarise(step: int, table: pa.Table, limit: int) -> StepRollouts:
    """The figures of a step's rollouts and about `limit` of them in full: whole groups, and one at least."""
    slots = table["slot"].to_numpy()
    outcomes = table["outcome"].to_pylist()
    correct = np.array([outcome == Outcome.CORRECT for outcome in outcomes])
    distinct, firsts, groups = np.unique(slots, return_index=True, return_inverse=True)
    table = table.set_column(table.column_names.index("token_ids"), "tokens", _lengths(table["token_ids"]))
    spread = np.argsort((np.arange(len(distinct)) * _GOLDEN) % 1.0)
    shown: list[tuple[dict[str, Any], ...]] = []
    for group in spread:
        if sum(map(len, shown)) + len(table) / len(distinct) > limit and shown:
            break
        shown.append(tuple(table.take(np.flatnonzero(groups == group)).to_pylist()))
    return StepRollouts(
        step=step,
        rows=table["row"].to_numpy()[firsts],
        accuracy=np.bincount(groups, weights=correct) / np.bincount(groups),
        length_quantiles=np.quantile(table["tokens"].to_numpy(), QUANTILES),
        outcomes=Counter(outcomes),
        truncated=table["finish_reason"].to_pylist().count("length") / len(table),
        samples=_at_most(limit, shown),
    )


def sample(steps: Sequence[StepRollouts], limit: int = SHOWN_ROLLOUTS) -> list[tuple[int, list[dict[str, Any]]]]:
    """(step, rollouts of one group), at most `limit` rollouts in all, spread evenly over steps and slots."""
    if len(steps) > limit:
        steps = [steps[i] for i in np.linspace(0, len(steps) - 1, limit).astype(int)]
    quota = limit // max(len(steps), 1)
    return [
        (step.step, sorted(group, key=lambda row: row["sample"]))
        for step in steps
        for group in sorted(_at_most(quota, step.samples), key=lambda group: group[0]["slot"])
    ]


def shortened(text: str) -> str:
    """The text, or its begin and end with the number of characters left out between them."""
    if len(text) <= SHOWN_CHARACTERS:
        return text
    begin, end = SHOWN_CHARACTERS * 3 // 4, SHOWN_CHARACTERS // 4
    return f"{text[:begin]}\n[… {len(text) - begin - end:,} characters left out …]\n{text[-end:]}"


def _at_most(limit: int, groups: Sequence[tuple[dict[str, Any], ...]]) -> tuple[tuple[dict[str, Any], ...], ...]:
    """The first groups of no more than `limit` rollouts together; of the first group alone, a part."""
    kept: list[tuple[dict[str, Any], ...]] = []
    for group in groups:
        if kept and sum(map(len, kept)) + len(group) > limit:
            break
        kept.append(group[:limit])
    return tuple(kept)


def _lengths(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.call_function("list_value_length", [lists])


def _step(name: str) -> int:
    return int(name[len("step_") : -len(".parquet")]) + 1
