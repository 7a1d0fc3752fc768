"""The curriculum actor: owns the order of problems, the strategy and the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from gainrl_ray.config_curricula import CurriculumConfig
from gainrl_ray.curricula.base import Order
from gainrl_ray.curricula.ledger import Ledger, LedgerEntry, SlotStatus
from gainrl_ray.curricula.registry import build_strategy
from gainrl_ray.data.orders import StoredOrder
from gainrl_ray.errors import StaleAttemptError
from gainrl_ray.types import StepOutcome, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumReport:
    """The strategy after it observed a step."""

    state: dict[str, Any]
    metrics: dict[str, float]


class Curriculum:
    """Selects windows and observes outcomes; the class behind `CurriculumActor`, usable without Ray.

    Calls carry the learner gang's `attempt`: those of an older attempt raise StaleAttemptError. `select` and
    `observe` are idempotent within an attempt: a step selected or observed before is answered as it was then.
    """

    def __init__(self, config: CurriculumConfig, order: Order, problem_ids: Sequence[str], seed: int) -> None:
        """`order[rank]` is a dataset row; `problem_ids[row]` its id."""
        self._build = lambda: build_strategy(config, order=order, seed=seed)
        self._strategy = self._build()
        self._problem_ids = problem_ids
        self._ledger = Ledger()
        self._attempt = 0
        self._windows: dict[int, Window] = {}
        self._reports: dict[int, CurriculumReport] = {}

    def reset(
        self, step: int, state: dict[str, Any] | None, windows: Sequence[Window], ledger: list[dict], attempt: int
    ) -> CurriculumReport:
        """Rewind to `step`: None starts the strategy afresh; `windows` are those planned and not trained.

        `ledger` is the stored history of an earlier process, used when this one has none.
        """
        if attempt <= self._attempt:
            raise StaleAttemptError(f"reset of attempt {attempt}: attempt {self._attempt} is running")
        self._attempt = attempt
        self._strategy = self._build()
        if state is not None:
            self._strategy.load_state_dict(state)
        if not list(self._ledger):
            self._ledger = Ledger([LedgerEntry.from_dict(entry) for entry in ledger])
        self._ledger.rewind(step, attempt)
        self._windows = {window.step: window for window in windows}
        self._reports = {}
        for window in windows:
            self._ledger.plan(window.step, attempt, window.problem_ids)
        return self._report()

    def select(self, step: int, count: int, attempt: int) -> Window:
        """The window of `step`, drawn from the strategy's present state."""
        self._check(attempt)
        if step not in self._windows:
            rows = tuple(int(row) for row in self._strategy.select(step, count))
            ids = tuple(str(self._problem_ids[row]) for row in rows)
            self._windows[step] = Window(step=step, rows=rows, problem_ids=ids)
            self._ledger.plan(step, attempt, ids)
        return self._windows[step]

    def graded(self, step: int, policy_version: int, attempt: int) -> None:
        """Record that all groups of `step` are graded."""
        self._check(attempt)
        slots = range(len(self._windows[step].rows))
        self._ledger.mark(step, attempt, dict.fromkeys(slots, SlotStatus.GRADED), policy_version)

    def observe(
        self, outcome: StepOutcome, trained: Sequence[int], policy_version: int, attempt: int
    ) -> CurriculumReport:
        """The strategy's state and metrics after the outcome; `trained` are the slots that were in the update."""
        self._check(attempt)
        if outcome.step not in self._reports:
            self._strategy.observe(outcome)
            statuses = {
                slot.slot: SlotStatus.TRAINED if slot.slot in set(trained) else SlotStatus.LEFT_OUT
                for slot in outcome.slots
            }
            self._ledger.mark(outcome.step, attempt, statuses, policy_version)
            self._reports = {outcome.step: self._report()}
            self._windows.pop(outcome.step, None)
        return self._reports[outcome.step]

    def ledger(self) -> list[dict[str, Any]]:
        """Every entry of the ledger, oldest first."""
        return [entry.as_dict() for entry in self._ledger]

    def _report(self) -> CurriculumReport:
        return CurriculumReport(state=self._strategy.state_dict(), metrics=self._strategy.metrics())

    def _check(self, attempt: int) -> None:
        if attempt != self._attempt:
            raise StaleAttemptError(f"call of attempt {attempt}: attempt {self._attempt} is running")


class _CurriculumProcess(Curriculum):
    """The curriculum with its order mapped where it runs: nothing of the dataset's size is sent or held."""

    def __init__(
        self, config: CurriculumConfig, order: StoredOrder | range, problem_ids: Sequence[str], seed: int
    ) -> None:
        super().__init__(config, order if isinstance(order, range) else order.open(), problem_ids, seed)


CurriculumActor: Any = ray.remote(num_cpus=0)(_CurriculumProcess)
