"""A curriculum's state in the run's folder, of which a commit writes what is new."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from gainrl_ray.curricula.checked import CheckedStrategy
from gainrl_ray.errors import DataError
from gainrl_ray.storage import Storage
from gainrl_ray.types import SlotOutcome, StepOutcome

INLINE_BYTES = 1 << 16
"""Of a state's JSON: states up to this size are in the checkpoint itself."""
SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("slot", pa.int32()),
        ("row", pa.int64()),
        ("completions", pa.int32()),
        ("accuracy", pa.float64()),
        ("angle", pa.float64()),
    ]
)
_FILE = re.compile(r"(?:state|outcomes_\d+)_(\d+)\.(?:json|parquet)")


class StateHistory:
    """Whole states, ever further apart, and between them the outcomes that lead from one to the next.

    A commit writes the outcomes since the last one, however many problems were shown before. When the outcomes since
    the last whole state have as many bytes as that, the whole state is written instead: what all commits together
    write grows as what was observed does, and a restored strategy observes no more than a state's worth of it again.
    Files: state_<step>.json, and outcomes_<first step>_<step after the last>.parquet.
    """

    def __init__(self, folder: Storage) -> None:
        """The folder is the history's own, and comes into being with the first state that is not small."""
        self._folder = folder
        self._begin()

    def _begin(self, whole: int | None = None, whole_bytes: int = 0) -> None:
        self._whole, self._whole_bytes = whole, whole_bytes
        self._since_bytes = 0  # of the outcomes written since the whole state
        self._new: list[StepOutcome] = []

    def observed(self, outcome: StepOutcome) -> None:
        """Learn of an outcome that the strategy has taken in."""
        self._new.append(outcome)

    def commit(self, step: int, strategy: CheckedStrategy) -> dict[str, Any]:
        """What a checkpoint after `step` trained steps has to keep for `restore`: the state, or where it lies."""
        if self._whole is not None:
            table = _table(self._new)
            if self._since_bytes + table.nbytes < self._whole_bytes:
                self._folder.write_table(f"outcomes_{step - len(self._new):06d}_{step:06d}.parquet", table)
                self._since_bytes += table.nbytes
                self._new = []
                return {"whole": self._whole}
        state = strategy.state_dict()
        text = json.dumps(state)
        if len(text) <= INLINE_BYTES:
            self._begin()
            return {"state": state}
        self._folder.write_text(_state_name(step), text)
        self._begin(step, len(text))
        return {"whole": step}

    def restore(self, step: int, kept: dict[str, Any] | None, strategy: CheckedStrategy) -> None:
        """Bring a new strategy to where it was at `step`, by what `commit` gave then; then drop everything newer.

        None leaves the strategy at its beginning.

        Raises:
            DataError: files of the history are missing or damaged. ConfigError: the state is another strategy's.
        """
        self._begin()
        if kept is not None and "state" in kept:
            strategy.load_state_dict(kept["state"])
        elif kept is not None:
            self._restore(step, kept["whole"], strategy)
        for name in self._folder.list():
            if _last_step(name) > step:
                self._folder.delete(name)

    def _restore(self, step: int, whole: int, strategy: CheckedStrategy) -> None:
        name = _state_name(whole)
        text = self._folder.read_text(name)
        try:
            state = json.loads(text)
        except ValueError as error:
            raise self._unreadable(f"{name} is damaged ({error})") from error
        self._begin(whole, len(text))
        strategy.load_state_dict(state)
        reached = whole
        for outcome in self._written(whole, step):
            if outcome.step == reached:
                strategy.observe(outcome)
                reached += 1
        if reached != step:
            raise self._unreadable(f"the outcome of step {reached} is missing")

    def _written(self, start: int, stop: int) -> Iterator[StepOutcome]:
        for name in self._folder.list():
            if name.startswith("outcomes_") and start < _last_step(name) <= stop:
                table = self._folder.read_table(name)
                self._since_bytes += table.nbytes
                yield from _outcomes(table)

    def _unreadable(self, what: str) -> DataError:
        return DataError(
            f"the curriculum's state in {self._folder.uri} cannot be restored: {what}; "
            "continue from another checkpoint or start a run under a new name"
        )


def _last_step(name: str) -> int:
    """The number of trained steps that a file of the history leads to; -1 for other files."""
    found = _FILE.fullmatch(name)
    return int(found[1]) if found else -1


def _state_name(step: int) -> str:
    return f"state_{step:06d}.json"


def _table(outcomes: Sequence[StepOutcome]) -> pa.Table:
    """One row per slot."""
    slots = [(outcome.step, slot) for outcome in outcomes for slot in outcome.slots]
    columns = {"step": [step for step, _ in slots]}
    columns |= {name: [getattr(slot, name) for _, slot in slots] for name in SCHEMA.names[1:]}
    return pa.table(columns, schema=SCHEMA)


def _outcomes(table: pa.Table) -> Iterator[StepOutcome]:
    """The inverse of `_table`."""
    by_step: dict[int, list[SlotOutcome]] = {}
    for row in table.to_pylist():
        by_step.setdefault(row.pop("step"), []).append(SlotOutcome(**row))
    for step, slots in by_step.items():
        yield StepOutcome(step=step, slots=tuple(slots))
