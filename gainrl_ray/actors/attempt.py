"""What one learner gang has in flight in the pipeline, and the waiting for it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gainrl_ray.actors.broadcast import Broadcast, Receivers
from gainrl_ray.actors.group_rounds import Generated, StepPlan
from gainrl_ray.checkpoint import RunState
from gainrl_ray.errors import DeadlineError, StaleAttemptError
from gainrl_ray.types import LineKind, RankBatch, UpdateReport

ANSWER_S = 60.0  # for a look at the engines


class Attempt:
    """The steps under way between a gang's `reset` and its end; a newer gang gets a fresh attempt.

    Change it inside `changing()`, which wakes those who wait.
    """

    def __init__(self, number: int, start: int, lines: LineKind = LineKind.ROWS) -> None:
        """`start` is the number of trained steps that the gang goes on from; `lines` as in PolicyModel."""
        self.number, self.start, self.lines = number, start, lines
        self.committed = start  # trained steps at the last commit
        self.published = -1  # newest version in the weight store
        self.wanted = -1  # version that drained engines wait for
        self.plans: dict[int, StepPlan] = {}  # by step, as everything below
        self.generated: dict[int, Generated] = {}
        self.batches: dict[int, tuple[RankBatch, ...]] = {}  # one per rank
        self.offers: dict[int, Broadcast] = {}  # by version, as the next two
        self.receivers: dict[int, Receivers | None] = {}
        self.sync_s: dict[int, float] = {}
        self.evaluations: dict[int, dict[str, float]] = {}  # by version
        self.reports: dict[int, dict[int, UpdateReport]] = {}  # by step and rank
        self.states: dict[int, RunState] = {}
        self._changed = threading.Condition()
        self._error: Exception | None = None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the attempt while it is changed, and wake all who wait."""
        with self._changed:
            self.check()
            yield
            self._changed.notify_all()

    def wait(self, ready: Callable[[], bool], deadline_s: float, what: str) -> None:
        """Return once `ready()` holds.

        Raises:
            DeadlineError: it did not hold in time. StaleAttemptError: a newer attempt started meanwhile.
            The error with which generation ended, if it did.
        """
        end = time.monotonic() + deadline_s
        with self._changed:
            while True:
                self.check()
                if ready():
                    return
                left = end - time.monotonic()
                if left <= 0:
                    raise DeadlineError(
                        f"{what} did not come within {deadline_s:.0f} s: newest published version {self.published}, "
                        f"windows of steps {sorted(self.plans)}, graded steps {sorted(self.batches)}"
                    )
                self._changed.wait(left)

    def offer(self, version: int, broadcast: Broadcast) -> Receivers | None:
        """Who takes `version` from a broadcast that begins now; None when no engine waits for it or none answers.

        Raises the error with which the attempt ended, if it did.
        """
        with self.changing():
            if self.wanted != version:
                return None
            self.offers[version] = broadcast
        try:
            self.wait(lambda: version in self.receivers, ANSWER_S, f"the receivers of version {version}")
        except DeadlineError:
            return None  # engines that come to it later find no learner, and go to the store
        return self.receivers[version]

    def fail(self, error: Exception) -> None:
        """Hand `error` to all who wait or come later; the first one counts."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def cancel(self) -> None:
        """End the attempt: whoever waits gets StaleAttemptError."""
        self.fail(StaleAttemptError(f"attempt {self.number} has ended"))

    @property
    def ended(self) -> bool:
        """Whether the attempt failed or was cancelled."""
        return self._error is not None

    @property
    def doing(self) -> str:
        """What it is at, in a few words."""
        with self._changed:
            step = min(self.plans.keys() - self.states.keys(), default=None)
        if step is None or self.published < 0:
            return "learners and engines start"
        return f"step {step + 1}: {'training' if step in self.batches else 'generating'}"

    def check(self) -> None:
        """Raise the error with which the attempt ended, if it did."""
        if self._error is not None:
            raise self._error

    def forget(self, before: int) -> None:
        """Drop what belongs to steps before `before`; repeated calls of a rank reach one step back."""
        for past in (self.generated, self.batches, self.plans, self.reports, self.states, self.offers):
            for step in [step for step in past if step < before]:
                del past[step]
