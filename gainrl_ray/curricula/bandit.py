"""Bandits over problems: Beta beliefs of each one's success rate, of which those nearest the target are drawn."""

from typing import Any, ClassVar

import numpy as np

from gainrl_ray.algo.permutation import Permutation
from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.config_curricula import BanditConfig
from gainrl_ray.config_node import Node
from gainrl_ray.curricula.base import NO_COLUMNS, Column, Columns, Order, Signal, Strategy
from gainrl_ray.curricula.known_problems import KnownProblems
from gainrl_ray.curricula.problem_strategy import ProblemStrategy, Shown, shown
from gainrl_ray.errors import ConfigError
from gainrl_ray.types import StepOutcome

PRIOR = 1.0
"""Successes, and failures, taken as seen before training: Beta(1, 1)."""


class BanditStrategy(ProblemStrategy):
    """MoPPS: of random candidates those whose success rate, drawn from the belief of it, is nearest the target.

    A problem's belief is Beta(1 + wins, 1 + losses). When it is shown, with s successes of k:
    wins <- keep * wins + s, losses <- keep * losses + k - s, which is MoPPS' lam * alpha + (1 - lam) * alpha0 + s.

    Source: MoPPS, arXiv 2507.04632: keep = 1.0 (MATH) or 0.5 (Countdown), 16 or 8 windows of candidates.
    """

    name: ClassVar[str] = "bandit"
    signal: ClassVar[Signal] = "none"
    keep_default: ClassVar[float] = 1.0
    columns_kept: ClassVar[tuple[str, ...]] = ("wins", "losses")

    def __init__(self, config: BanditConfig, order: Order, seed: int, columns: Columns = NO_COLUMNS) -> None:
        super().__init__(config, order, seed, columns)
        self._config: BanditConfig = config
        self._keep = self.keep_default if config.keep is None else config.keep
        self._known = KnownProblems(self.size, dict.fromkeys(self.columns_kept, 0.0))
        self._steps = 0  # observed

    @classmethod
    def variant(cls, config: Node) -> type[Strategy]:
        """`BotsStrategy` for the rule of that name, which needs difficulties."""
        return BotsStrategy if isinstance(config, BanditConfig) and config.rule == "bots" else cls

    def observe(self, outcome: StepOutcome) -> None:
        """Take in how often each problem was solved."""
        self._learn(shown(outcome))
        self._steps += 1

    def metrics(self) -> dict[str, float]:
        """`problems_shown`, each counted once, and `believed_rate`, the mean over them of what is believed."""
        wins, losses = self._belief(self._known.rows)
        believed = float((wins / (wins + losses)).mean()) if wins.size else 0.5
        return {"problems_shown": float(self._known.rows.size), "believed_rate": believed}

    def _pick(self, step: int, count: int, avoided: np.ndarray) -> np.ndarray:
        pool = min(self.size, self._config.pool_windows * (count + avoided.size))
        rows = Permutation(self.size, self._seed, "pool", step)(np.arange(pool))
        wins, losses = self._belief(rows)
        if self._config.belief == "thompson":
            rates = coordinate_rng(self._seed, "thompson", step).beta(wins, losses)
        else:
            rates = wins / (wins + losses)
        free = ~np.isin(rows, avoided)
        nearest = np.argsort(np.abs(rates[free] - self._config.target_accuracy), kind="stable")
        return rows[free][nearest[:count]]

    def _belief(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The two parameters of the Beta distribution of each row, [n] float64 each."""
        wins, losses = (self._known.read(name, rows).astype(np.float64) for name in ("wins", "losses"))
        return PRIOR + wins, PRIOR + losses

    def _learn(self, seen: Shown) -> None:
        wins, losses = (self._keep * self._known.read(name, seen.rows) for name in ("wins", "losses"))
        failures = seen.completions - seen.successes
        self._known.write(seen.rows, wins=wins + seen.successes, losses=losses + failures)

    def _state(self) -> dict[str, Any]:
        return {"rule": self._config.rule, "steps": self._steps, "problems": self._known.state_dict()}

    def _restore(self, state: dict[str, Any]) -> None:
        if state["rule"] != self._config.rule:
            raise ConfigError(
                f"state of a bandit by {state['rule']!r}, expected {self._config.rule!r}: start a new run"
            )
        self._known.load(state["problems"])
        self._steps = state["steps"]


class BotsStrategy(BanditStrategy):
    """BOTS: evidence fades with every step, and every problem also gets what the step's success implies for it.

    alpha <- keep * alpha + (1 - keep) * 1 + (1 - rho) * s + rho * k * predicted, beta likewise with k - s and
    1 - predicted; s = 0 of 0 for problems that were not shown; k is the step's mean number of completions of a problem.

    Source: BOTS, arXiv 2510.26374, keep = 1 - its lambda. It predicts a rate between those of a weak and a strong
    reference model. Here is one measured rate p = 1 - difficulty, and the policy is a share `lead` of the way from it
    to 1, or to 0 where it is negative: predicted = p + lead (1 - p), or p + lead p. `lead` fits the mean accuracy of
    the problems shown to their mean p, with momentum. Those were chosen near the target, so it lags where the policy
    differs between kinds of problem.

    What all problems get is linear in p, with factors common to all: three sums that fade. A problem's own numbers
    are what it got beyond that, so nothing is done for problems that are not shown.
    """

    needs: ClassVar[tuple[Column, ...]] = ("difficulty",)
    keep_default: ClassVar[float] = 0.9
    columns_kept: ClassVar[tuple[str, ...]] = ("wins", "losses", "step")

    def __init__(self, config: BanditConfig, order: Order, seed: int, columns: Columns = NO_COLUMNS) -> None:
        super().__init__(config, order, seed, columns)
        self._lead = 0.0  # in [-1, 1]
        # Fading sums over steps of rho * k, of rho * k * lead where it is positive, and of -rho * k * lead where not.
        self._implied, self._raised, self._lowered = 0.0, 0.0, 0.0

    def metrics(self) -> dict[str, float]:
        """As MoPPS', and `lead` in [-1, 1]."""
        return {**super().metrics(), "lead": self._lead}

    def _belief(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rate = 1.0 - self._difficulty(rows)
        up = rate * self._implied + (1.0 - rate) * self._raised - rate * self._lowered
        wins, losses = self._faded(rows)
        return PRIOR + up + wins, PRIOR + self._implied - up + losses

    def _learn(self, seen: Shown) -> None:
        config, share = self._config, 1.0 - self._config.implicit_share
        wins, losses = self._faded(seen.rows)
        failures = seen.completions - seen.successes
        self._known.write(
            seen.rows,
            wins=self._keep * wins + share * seen.successes,
            losses=self._keep * losses + share * failures,
            step=self._steps + 1,
        )
        fitted = _lead(1.0 - self._difficulty(seen.rows), seen.accuracy)
        self._lead = fitted if self._steps == 0 else config.momentum * self._lead + (1.0 - config.momentum) * fitted
        weight = config.implicit_share * float(seen.completions.mean())
        self._implied = self._keep * self._implied + weight
        self._raised = self._keep * self._raised + weight * max(self._lead, 0.0)
        self._lowered = self._keep * self._lowered + weight * max(-self._lead, 0.0)

    def _faded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Own wins and losses as of now, [n] float64 each."""
        fading = self._keep ** (self._steps - self._known.read("step", rows).astype(np.float64))
        wins, losses = (self._known.read(name, rows).astype(np.float64) for name in ("wins", "losses"))
        return wins * fading, losses * fading

    def _state(self) -> dict[str, Any]:
        sums = [self._implied, self._raised, self._lowered]
        return {**super()._state(), "lead": self._lead, "sums": sums}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._lead = state["lead"]
        self._implied, self._raised, self._lowered = state["sums"]


def _lead(rates: np.ndarray, accuracy: np.ndarray) -> float:
    """How far the mean accuracy is from the mean of `rates` to 1, or to 0 where it is less: in [-1, 1]."""
    ahead = float((accuracy - rates).sum())
    room = float((1.0 - rates).sum() if ahead >= 0 else rates.sum())
    return ahead / room if room > 0 else 0.0
