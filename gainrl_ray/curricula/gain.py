"""GAIN-RL (arXiv 2506.02281): a Gaussian window over the sorted index, moved by accuracy and angle."""

from dataclasses import asdict, dataclass, replace
from math import isfinite, isnan, tanh
from typing import Any, ClassVar

import numpy as np

from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.algo.windows import draw_window
from gainrl_ray.config_curricula import GainConfig
from gainrl_ray.curricula.base import NO_COLUMNS, Columns, Order, Signal, Strategy
from gainrl_ray.errors import ConfigError
from gainrl_ray.types import StepOutcome

PAPER_MU_STEP_SCALE = 1024.0
"""n of the paper's mean update, ranks."""
COMPAT_MU_STEP_SCALE = 500.0
"""n of the released code's mean update, ranks."""


@dataclass(frozen=True, slots=True)
class GainState:
    """Where the window stands and how the last outcome moved it."""

    mu: float  # window centre, ranks, in [0, N - 1]
    accuracy_term: float = 0.0  # ranks the last accuracy asked for, before bounds
    angle_term: float = 0.0  # ranks the last angle asked for, before bounds; 0 when not measured
    angle_missing: float = 0.0  # 1.0 when no slot of the last step had its angle measured


class GainStrategy(Strategy):
    """Draws distinct ranks with weights exp(-(rank - mu)^2 / (2 sigma^2)); rank 0 is the most concentrated problem.

    Sigma, the start of mu and the step scale are ranks above 1 and fractions of N up to 1.
    """

    name: ClassVar[str] = "gain"
    signal: ClassVar[Signal] = "angle"
    wants_angle: ClassVar[bool] = True

    def __init__(self, config: GainConfig, order: Order, seed: int, columns: Columns = NO_COLUMNS) -> None:
        super().__init__(config, order, seed, columns)
        self._config: GainConfig = config
        self._sigma = in_ranks(config.sigma, self.size)
        default = PAPER_MU_STEP_SCALE if config.form == "paper" else COMPAT_MU_STEP_SCALE
        self._scale = in_ranks(config.mu_step_scale or default, self.size)
        self._now = GainState(mu=self._bounded(in_ranks(config.mu_start, self.size)))

    def _ranks(self, step: int, count: int) -> np.ndarray:
        rng = coordinate_rng(self._seed, "window", step)
        return draw_window(rng, mu=self._now.mu, sigma=self._sigma, size=self.size, count=count)

    def observe(self, outcome: StepOutcome) -> None:
        """Move mu by the step's accuracy and angle; it stays in [0, N - 1].

        paper:  mu += scale/2 * tanh(accuracy_sensitivity * (accuracy - target))
                    + scale/2 * tanh(angle_sensitivity * angle)
        compat: mu += clamp(scale * tanh(accuracy_sensitivity * (accuracy/2 - target))
                    + scale * tanh(accuracy_sensitivity * angle), 0, 2 * scale)
        An angle that was not measured moves nothing. The bounds are ours: neither source has them.
        """
        config, angle = self._config, outcome.angle
        missing = isnan(angle)
        if config.form == "paper":
            scale, accuracy, angle_slope = self._scale / 2, outcome.accuracy, config.angle_sensitivity
        else:
            scale, accuracy, angle_slope = self._scale, outcome.accuracy / 2, config.accuracy_sensitivity
        accuracy_term = scale * tanh(config.accuracy_sensitivity * (accuracy - config.target_accuracy))
        angle_term = 0.0 if missing else scale * tanh(angle_slope * angle)
        move = accuracy_term + angle_term
        if config.form == "compat":
            move = min(max(move, 0.0), 2 * scale)
        self._now = GainState(self._bounded(self._now.mu + move), accuracy_term, angle_term, float(missing))

    def metrics(self) -> dict[str, float]:
        """`mu`, `sigma` and the last terms in ranks, `mu_fraction` in [0, 1], `angle_missing` 0 or 1."""
        return {**asdict(self._now), "sigma": self._sigma, "mu_fraction": self._now.mu / max(self.size - 1, 1)}

    def _state(self) -> dict[str, Any]:
        return asdict(self._now)

    def _restore(self, state: dict[str, Any]) -> None:
        restored = replace(self._now, **state)
        if not isfinite(restored.mu) or restored.mu != self._bounded(restored.mu):
            raise ConfigError(f"state of curriculum {self.name!r} has mu {restored.mu}, outside 0..{self.size - 1}")
        self._now = restored

    def _bounded(self, mu: float) -> float:
        return min(max(mu, 0.0), float(self.size - 1))


def in_ranks(value: float, size: int) -> float:
    """A setting in ranks: a value up to 1 is a fraction of `size`, above 1 it is ranks already."""
    return value * size if value <= 1.0 else value
