"""The curriculum actor: owns the order of problems, the strategy and the ledger."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray

from gainrl_ray.config_curricula import CurriculumConfig
from gainrl_ray.curricula.base import NO_COLUMNS, Column, Columns, Order
from gainrl_ray.curricula.checked import CheckedStrategy
from gainrl_ray.curricula.follower import Follower
from gainrl_ray.curricula.ledger import Ledger, LedgerEntry, SlotStatus
from gainrl_ray.curricula.registry import build_strategy
from gainrl_ray.data.state_history import StateHistory
from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.errors import StaleAttemptError
from gainrl_ray.storage import Storage
from gainrl_ray.types import StepOutcome, Window


class Curriculum:
    """Selects windows and observes outcomes; the class behind `CurriculumActor`, usable without Ray.

    Calls carry the learner gang's `attempt`: those of an older attempt raise StaleAttemptError. `select` and
    `observe` are idempotent within an attempt: a step selected or observed before is answered as it was then.
    """

    def __init__(
        self,
        config: CurriculumConfig,
        order: Order,
        problem_ids: Sequence[str],
        seed: int,
        folder: Storage,
        columns: Columns = NO_COLUMNS,
    ) -> None:
        """`order[rank]` is a dataset row; `problem_ids[row]` its id, `columns[name][row]` what the strategy needs.

        `folder` is where commits write a state that is too large for a checkpoint.
        """
        self._build = lambda: CheckedStrategy(build_strategy(config, order=order, seed=seed, columns=columns))
        self._strategy = self._build()
        self._history = StateHistory(folder)
        self._problem_ids = problem_ids
        self._ledger = Ledger()
        self._attempt = 0
        self._step = 0  # the strategy has observed all steps before it
        self._windows: dict[int, Window] = {}
        # By step: the step at which its window was drawn, and the rows of windows that were under way then.
        self._drawn_at: dict[int, tuple[int, np.ndarray]] = {}
        self._follower: Follower | None = None  # of the strategy, while windows drawn at earlier steps are under way
        self._metrics: dict[int, dict[str, float]] = {}

    def reset(
        self, step: int, kept: dict[str, Any] | None, windows: Sequence[Window], ledger: list[dict], attempt: int
    ) -> None:
        """Rewind to `step`, where `commit` gave `kept`; None starts the strategy afresh.

        `windows` are those planned and not trained; `ledger` is the stored history of an earlier process, used when
        this one has none. Raises as StateHistory.restore.
        """
        if attempt <= self._attempt:
            raise StaleAttemptError(f"reset of attempt {attempt}: attempt {self._attempt} is running")
        self._attempt = attempt
        self._strategy, self._step = self._build(), step
        self._history.restore(step, kept, self._strategy)
        if not list(self._ledger):
            self._ledger = Ledger([LedgerEntry.from_dict(entry) for entry in ledger])
        self._ledger.rewind(step, attempt)
        self._windows = {window.step: window for window in windows}
        self._drawn_at = {ahead: (step, self._planned(ahead)) for ahead in self._windows}
        self._follower, self._metrics = None, {}
        for window in windows:
            self._ledger.plan(window.step, attempt, window.problem_ids)

    def select(self, step: int, count: int, attempt: int) -> Window:
        """The window of `step`, drawn from the strategy's present state."""
        self._check(attempt)
        if step not in self._windows:
            planned = self._planned(step)
            self._windows[step] = self._window(step, self._strategy.select(step, count, planned))
            self._drawn_at[step] = self._step, planned
            self._ledger.plan(step, attempt, self._windows[step].problem_ids)
        return self._windows[step]

    def refill(self, step: int, count: int, drawn: Sequence[int], attempt: int) -> Window:
        """`count` problems beside the rows `drawn` for a selected step, fewer where fewer are left; changes nothing.

        They are drawn from the state that the step's window was, whatever was observed since.
        """
        self._check(attempt)
        drawn_at, planned = self._drawn_at[step]
        strategy = self._strategy
        if drawn_at < self._step:
            assert self._follower is not None
            strategy = self._follower.at(drawn_at)
        rows = strategy.refill(step, count, np.asarray(drawn, dtype=np.int64), planned)
        return self._window(step, rows)

    def graded(
        self,
        drawn: Window,
        graded: Sequence[int],
        replayed: Sequence[str],
        policy_version: int,
        attempt: int,
    ) -> None:
        """Record all problems drawn for a step, the slots whose groups are graded, and the problems trained again."""
        self._check(attempt)
        slots, step = len(drawn.rows), drawn.step
        self._ledger.extend(step, attempt, (*drawn.problem_ids, *replayed))
        statuses = dict.fromkeys(range(slots), SlotStatus.SKIPPED) | dict.fromkeys(graded, SlotStatus.GRADED)
        statuses |= dict.fromkeys(range(slots, slots + len(replayed)), SlotStatus.REPLAYED)
        self._ledger.mark(step, attempt, statuses, policy_version)

    def observe(
        self, outcome: StepOutcome, trained: Sequence[int], policy_version: int, attempt: int
    ) -> dict[str, float]:
        """The strategy's metrics after the outcome; `trained` are the slots that were in the update."""
        self._check(attempt)
        if outcome.step not in self._metrics:
            self._take_in(outcome)
            if not self._metrics:  # a user's state that cannot be kept is found out now, not at the first commit
                self._strategy.state_dict()
            statuses = {
                slot.slot: SlotStatus.TRAINED if slot.slot in set(trained) else SlotStatus.LEFT_OUT
                for slot in outcome.slots
            }
            self._ledger.mark(outcome.step, attempt, statuses, policy_version)
            self._metrics = {outcome.step: self._strategy.metrics()}
        return self._metrics[outcome.step]

    def commit(self, step: int, attempt: int) -> dict[str, Any]:
        """What a checkpoint after `step`, the last observed, keeps for `reset`. Writes what was observed since."""
        self._check(attempt)
        assert step == self._step, f"commit of {step}, observed are {self._step} steps"
        return self._history.commit(step, self._strategy)

    def ledger(self, since: int = 0) -> list[dict[str, Any]]:
        """The ledger's entries of steps from `since` on, oldest first."""
        return [entry.as_dict() for entry in self._ledger.since(since)]

    def _planned(self, step: int) -> np.ndarray:
        """Rows of the windows of earlier steps that are not observed yet."""
        earlier = [window for window in self._windows.values() if window.step < step]
        return np.array([row for window in earlier for row in window.rows], dtype=np.int64)

    def _take_in(self, outcome: StepOutcome) -> None:
        """Observe a step, and have its state at hand that other windows under way were drawn from."""
        others = [step for number, (step, _) in self._drawn_at.items() if number != outcome.step]
        if others and self._follower is None:
            behind = self._build()
            behind.load_state_dict(self._strategy.state_dict())
            self._follower = Follower(behind, self._step)
        self._strategy.observe(outcome)
        self._history.observed(outcome)
        self._step = outcome.step + 1
        self._windows.pop(outcome.step, None)
        self._drawn_at.pop(outcome.step, None)
        if self._follower is not None:
            self._follower.hear(outcome)
            if others:
                self._follower.at(min(others))
            else:
                self._follower = None

    def _window(self, step: int, rows: np.ndarray) -> Window:
        ids = tuple(str(self._problem_ids[int(row)]) for row in rows)
        return Window(step=step, rows=tuple(int(row) for row in rows), problem_ids=ids)

    def _check(self, attempt: int) -> None:
        if attempt != self._attempt:
            raise StaleAttemptError(f"call of attempt {attempt}: attempt {self._attempt} is running")


class _CurriculumProcess(Curriculum):
    """The curriculum with its arrays mapped where it runs: nothing of the dataset's size is sent or held."""

    def __init__(
        self,
        config: CurriculumConfig,
        order: StoredArray | range,
        problem_ids: Sequence[str],
        seed: int,
        folder: Storage,
        columns: Mapping[Column, StoredArray],
    ) -> None:
        opened: Columns = {name: array.open() for name, array in columns.items()}
        super().__init__(config, order if isinstance(order, range) else order.open(), problem_ids, seed, folder, opened)


CurriculumActor: Any = ray.remote(num_cpus=0)(_CurriculumProcess)
