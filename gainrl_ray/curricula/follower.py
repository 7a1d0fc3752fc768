"""A strategy some steps behind, for windows that were drawn then and are not closed yet."""

from collections import deque

from gainrl_ray.curricula.checked import CheckedStrategy
from gainrl_ray.types import StepOutcome


class Follower:
    """Takes in the outcomes that another strategy has taken in, later and in the same order."""

    def __init__(self, strategy: CheckedStrategy, step: int) -> None:
        """`strategy` has observed all steps before `step`, as the other one."""
        self._strategy, self._step = strategy, step
        self._waiting: deque[StepOutcome] = deque()

    def hear(self, outcome: StepOutcome) -> None:
        """Learn of a step that the other strategy has observed."""
        self._waiting.append(outcome)

    def at(self, step: int) -> CheckedStrategy:
        """The strategy with all steps before `step` observed, which never falls from call to call."""
        assert self._step <= step <= self._step + len(self._waiting), f"at {self._step}, asked for {step}"
        while self._step < step:
            self._strategy.observe(self._waiting.popleft())
            self._step += 1
        return self._strategy
