"""What becomes of drawn problems and their groups, whatever the curriculum: skip, screen, admit, refill."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar

import numpy as np

from gainrl_ray.algo.advantages import is_informative
from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.config_groups import (
    AllGroupsConfig,
    DynamicSamplingConfig,
    GresoConfig,
    GroupPolicyConfig,
    SpeedConfig,
)
from gainrl_ray.errors import ConfigError
from gainrl_ray.types import GradedGroup

LEAST_VISIT = 0.01
"""GRESO: a problem is visited with at least this probability."""
VISIT_START, VISIT_MOVE, VISIT_BOUNDS = 0.5, 0.01, (0.05, 0.95)
"""GRESO: base of the visit probability: its start, its move a step, its range."""
EASY_SHARE = 1 / 3
"""GRESO: share of the groups without spread that may be of problems always solved."""


class Verdict(Enum):
    """What becomes of a group."""

    ACCEPT = "accept"  # counts among those that the step wants
    REJECT = "reject"  # the curriculum learns of it, and another problem is drawn
    CONTINUE = "continue"  # the completions that it lacks are asked for


class GroupPolicy(ABC):
    """Rules for one step's groups; all but `observe` are pure.

    `observe` replaces what it changes, so that a shallow copy keeps the state of its time.
    """

    name: ClassVar[str]

    def keep(self, step: int, rows: np.ndarray) -> np.ndarray:
        """[n] bool, which of the drawn `rows`, [n] int64, are generated; here all."""
        return np.ones(len(rows), dtype=bool)

    def screen(self, group_size: int) -> int:
        """How many completions of a problem are asked for first, 1..group_size; here all."""
        return group_size

    @abstractmethod
    def admit(self, group: GradedGroup, group_size: int) -> Verdict:
        """What becomes of a group with the completions that it has so far; never CONTINUE when it is whole."""

    def refill(self, shortfall: int, *, refills: int, drawn: int, window: int) -> int:
        """How many problems to draw next, 0 = no more; here none.

        shortfall: groups that the step still lacks; refills: rounds of refilling it had; drawn: problems drawn for
        it, skipped ones included; window: those of its window, which is also how many groups it wants.
        """
        return 0

    @abstractmethod
    def observe(self, groups: Sequence[GradedGroup]) -> None:
        """Take in all groups that a step generated; every step is observed once, in order."""

    def metrics(self) -> dict[str, float]:
        """Figures of the present state for logs."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The whole state as JSON-able values."""
        return {"name": self.name, **self._state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` gave. Raises ConfigError for another policy's."""
        if state.keys() != self.state_dict().keys() or state["name"] != self.name:
            raise ConfigError(
                f"the checkpoint has the state of group_policy {state.get('name')!r} with keys {sorted(state)}, "
                f"expected {self.name!r} with {sorted(self.state_dict())}: continue with the settings the run was "
                "started with, or start a new run"
            )
        self._restore(state)

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """The policy's own part of the state."""

    @abstractmethod
    def _restore(self, state: dict[str, Any]) -> None:
        """Take over what `_state` gave; its keys are checked already."""


class _Stateless(GroupPolicy):
    def observe(self, groups: Sequence[GradedGroup]) -> None:
        """Nothing to take in."""

    def _state(self) -> dict[str, Any]:
        return {}

    def _restore(self, state: dict[str, Any]) -> None:
        """Nothing to take over."""


class AllGroups(_Stateless):
    """Every problem of the window is generated whole, and that is all."""

    name: ClassVar[str] = "all"

    def admit(self, group: GradedGroup, group_size: int) -> Verdict:
        """Accepted."""
        return Verdict.ACCEPT


class DynamicSampling(_Stateless):
    """Groups whose rewards are all equal are rejected, and other problems drawn in their place.

    Source: DAPO, arXiv 2503.14476, section 3.2. A refill draws exactly what is missing, where DAPO draws another batch
    and keeps what it needs of it: nothing that was generated is thrown away, for more and smaller rounds.
    """

    name: ClassVar[str] = "dynamic_sampling"

    def __init__(self, config: DynamicSamplingConfig) -> None:
        self._max_refills, self._max_drawn = config.max_refills, config.max_drawn

    def admit(self, group: GradedGroup, group_size: int) -> Verdict:
        """Accepted where the rewards differ."""
        return Verdict.ACCEPT if is_informative(group.rewards) else Verdict.REJECT

    def refill(self, shortfall: int, *, refills: int, drawn: int, window: int) -> int:
        """The shortfall, within the budgets of rounds and of problems."""
        left = int(self._max_drawn * window) - drawn
        return max(0, min(shortfall, left)) if refills < self._max_refills else 0


class Greso(DynamicSampling):
    """Dynamic sampling that skips a problem with probability 1 - max(p^z, 0.01).

    z counts the problem's latest visits in a row without spread; p is p_easy where the last of them was all correct,
    else p_hard. Each moves by 0.01 a step: down where the share of such groups among the step's is above its target,
    else up. Source: GRESO, arXiv 2506.02177, section 4. Batches are refilled as in DynamicSampling, so that the
    paper's adaptive batch size has no part here; drawing on in place of skipped problems costs no round.
    """

    name: ClassVar[str] = "greso"

    def __init__(self, config: GresoConfig, seed: int) -> None:
        super().__init__(config)
        self._target, self._seed = config.target_zero_variance, seed
        self._easy = self._hard = VISIT_START
        self._streaks: dict[int, int] = {}  # row -> z, negative where the last visit was all wrong; rows of z > 0

    def keep(self, step: int, rows: np.ndarray) -> np.ndarray:
        """Drawn by (seed, "greso", step, row); a problem whose last visit had spread is kept without a draw."""
        return np.array([self._is_visited(step, int(row)) for row in rows], dtype=bool)

    def visit_probability(self, row: int) -> float:
        """Probability that a drawn row is generated, in [0.01, 1]."""
        streak = self._streaks.get(row, 0)
        return max((self._easy if streak > 0 else self._hard) ** abs(streak), LEAST_VISIT)

    def observe(self, groups: Sequence[GradedGroup]) -> None:
        """Count visits and move both probabilities."""
        streaks, easy, hard = dict(self._streaks), 0, 0
        for graded in groups:
            row, streak = graded.group.row, abs(streaks.pop(graded.group.row, 0))
            if is_informative(graded.rewards):
                continue
            is_easy = graded.accuracy > 0.5
            easy, hard = easy + is_easy, hard + (not is_easy)
            streaks[row] = streak + 1 if is_easy else -streak - 1
        self._streaks = streaks
        self._easy = _moved(self._easy, easy / len(groups) > self._target * EASY_SHARE)
        self._hard = _moved(self._hard, hard / len(groups) > self._target * (1 - EASY_SHARE))

    def metrics(self) -> dict[str, float]:
        """Both bases, and the problems that may be skipped."""
        return {"p_easy": self._easy, "p_hard": self._hard, "skippable": len(self._streaks)}

    def _is_visited(self, step: int, row: int) -> bool:
        if row not in self._streaks:
            return True
        return coordinate_rng(self._seed, "greso", step, row).random() < self.visit_probability(row)

    def _state(self) -> dict[str, Any]:
        rows = sorted(self._streaks)
        return {"easy": self._easy, "hard": self._hard, "rows": rows, "streaks": [self._streaks[row] for row in rows]}

    def _restore(self, state: dict[str, Any]) -> None:
        self._easy, self._hard = state["easy"], state["hard"]
        self._streaks = dict(zip(state["rows"], state["streaks"], strict=True))


class Speed(DynamicSampling):
    """Problems are screened with few completions; those whose rewards differ get the rest, the others are rejected.

    A round holds the rest for the problems screened before and the screening of those drawn now. Source: SPEED, arXiv
    2506.09016, section 4, which screens for the next step beside this one's rest and keeps a surplus: here both belong
    to one step and one policy, and there is no surplus.
    """

    name: ClassVar[str] = "speed"

    def __init__(self, config: SpeedConfig) -> None:
        super().__init__(config)
        self._screen = config.screen

    def screen(self, group_size: int) -> int:
        """The configured number."""
        return self._screen

    def admit(self, group: GradedGroup, group_size: int) -> Verdict:
        """As dynamic sampling on what there is; a group with spread that lacks completions goes on."""
        if is_informative(group.rewards) and len(group.grades) < group_size:
            return Verdict.CONTINUE
        return super().admit(group, group_size)


def build_group_policy(config: GroupPolicyConfig, seed: int) -> GroupPolicy:
    """The policy that `config` names."""
    match config:
        case AllGroupsConfig():
            return AllGroups()
        case GresoConfig():
            return Greso(config, seed)
        case SpeedConfig():
            return Speed(config)
        case DynamicSamplingConfig():
            return DynamicSampling(config)


def _moved(probability: float, is_too_often: bool) -> float:
    low, high = VISIT_BOUNDS
    return min(max(probability + (-VISIT_MOVE if is_too_often else VISIT_MOVE), low), high)
