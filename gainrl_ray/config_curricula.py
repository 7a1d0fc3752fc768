"""The sections of the configuration that choose problems: one a curriculum, told apart by `name`."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from gainrl_ray.config_node import Fraction, Node


class ControllerConfig(Node):
    """A Gaussian window over a sorted order, moved by accuracy and angle."""

    name: str
    form: Literal["paper", "compat"] = "paper"
    """`paper`, or `compat`: the released code's mean update (one sensitivity, halved accuracy, never back)."""
    sigma: PositiveFloat = 1000.0
    """Window width: ranks when above 1, a fraction of N when at most 1."""
    mu_start: NonNegativeFloat = 0.0
    """First window centre: ranks when above 1, a fraction of N when at most 1."""
    mu_step_scale: PositiveFloat | None = None
    """Scale of a mean update (the paper's n): ranks when above 1, a fraction of N when at most 1; none = 1024
    ranks (`paper`) or 500 (`compat`)."""
    accuracy_sensitivity: PositiveFloat = 2.0
    """Slope of tanh in (accuracy - target)."""
    angle_sensitivity: NonNegativeFloat = 0.5
    """Slope of tanh in the angle concentration; `compat` uses accuracy_sensitivity for both."""
    target_accuracy: Fraction = 0.5
    """Accuracy that is aimed at: below it problems get easier, above it harder; bandit and dots draw nearest to it."""


class GainConfig(ControllerConfig):
    """GAIN-RL's Gaussian window over the sorted index (arXiv 2506.02281)."""

    name: Literal["gain"] = "gain"  # pyright: ignore[reportIncompatibleVariableOverride]
    signal: Literal["angle", "angle_residual", "c_intra", "c_inter"] = "angle"
    """What problems are sorted by, highest first: `angle` = c_intra + c_inter, `angle_residual` = what of it the
    prompt's length does not explain, or one part alone."""


class LengthConfig(ControllerConfig):
    """GAIN-RL's controller over prompts sorted by length: the control that a signal has to beat."""

    name: Literal["length"] = "length"  # pyright: ignore[reportIncompatibleVariableOverride]
    descending: bool = False
    """Longest prompt first."""


class PassRateConfig(ControllerConfig):
    """GAIN-RL's controller over problems sorted by a pass rate measured before training, easiest first."""

    name: Literal["pass_rate"] = "pass_rate"  # pyright: ignore[reportIncompatibleVariableOverride]


class ExternalConfig(ControllerConfig):
    """GAIN-RL's controller over an order from a file."""

    name: Literal["external"] = "external"  # pyright: ignore[reportIncompatibleVariableOverride]
    path: str = ""
    """The file of the order: row numbers or problem ids, the first to train, as .parquet, .json, .npy or .pt."""
    key: str | None = None
    """Column (.parquet) or key (.json, .pt) that holds the order; none = the file's only column, or a plain list."""

    @field_validator("path")
    @classmethod
    def _is_named(cls, path: str) -> str:
        if not path:
            raise ValueError("the external curriculum takes its order from a file: give --curriculum.path=FILE")
        return path


class UniformConfig(Node):
    """Shuffled passes: no problem twice within a pass."""

    name: Literal["uniform"] = "uniform"


class SequentialConfig(Node):
    """Dataset order, pass after pass."""

    name: Literal["sequential"] = "sequential"


class AdarftConfig(Node):
    """AdaRFT (arXiv 2504.05520): the problems nearest to a target difficulty, which follows accuracy."""

    name: Literal["adarft"] = "adarft"
    difficulty: Literal["pass_rate", "label"] = "pass_rate"
    """Difficulty of a problem, 0 the easiest, 1 the hardest: 1 - its measured pass rate, or the dataset's label."""
    target_accuracy: Fraction = 0.5
    """Accuracy at which the target difficulty stands still."""
    accuracy_sensitivity: PositiveFloat = 2.0
    """Slope of tanh in (accuracy - target)."""
    step_size: PositiveFloat = 0.5
    """Most that the target difficulty moves in a step; difficulties are in [0, 1]."""
    start: Fraction = 0.0
    """First target difficulty."""
    pool_windows: PositiveInt = 8
    """Windows' worth of candidates of a step, among which the strategy chooses."""


class BanditConfig(Node):
    """MoPPS (arXiv 2507.04632) or BOTS (arXiv 2510.26374): problems whose believed success rate is nearest the target.

    BOTS also takes the step's success as evidence on problems that were not shown.
    """

    name: Literal["bandit"] = "bandit"
    rule: Literal["mopps", "bots"] = "mopps"
    """`mopps`: evidence fades when its problem is shown again. `bots`: it fades with every step, and problems that are
    not shown get implicit evidence, from their difficulty and the steps' success."""
    keep: Fraction | None = None
    """Share of the old evidence kept (MoPPS' lambda, and 1 - BOTS' lambda); none = 1 (`mopps`) or 0.9 (`bots`)."""
    implicit_share: Fraction = 0.1
    """Weight of implicit evidence, that of what was observed being the rest (BOTS' rho); `bots` only."""
    momentum: Fraction = 0.9
    """Share kept at a step of the estimate of how far the policy is from the measured difficulties; `bots` only."""
    difficulty: Literal["pass_rate", "label"] = "pass_rate"
    """Difficulty of a problem, 0 the easiest, 1 the hardest: 1 - its measured pass rate, or the dataset's label."""
    belief: Literal["thompson", "mean"] = "thompson"
    """Whether a candidate's success rate is drawn from what is believed of it, or is the mean of that."""
    target_accuracy: Fraction = 0.5
    """Success rate of the problems that are wanted."""
    pool_windows: PositiveInt = 8
    """Windows' worth of candidates of a step, among which the strategy chooses."""


class DpsConfig(Node):
    """DPS (arXiv 2603.10887): the problems most likely to be partly solved, each a chain of three states."""

    name: Literal["dps"] = "dps"
    keep_counts: Fraction = 0.7
    """Share of the old transition counts that is kept when a problem is shown again (the paper's lambda)."""
    prior_count: PositiveFloat = 1.0
    """Transitions of each kind that are taken as seen before training."""


class DotsConfig(Node):
    """DOTS (arXiv 2506.05316): difficulty predicted from problems shown lately whose embeddings are alike."""

    name: Literal["dots"] = "dots"
    reference_share: Fraction = 0.25
    """Share of a window that is drawn from all problems alike, so that the predictions have something to go by."""
    reference_size: Annotated[int, Field(ge=8)] = 256
    """Problems shown last from which difficulty is predicted; until there are 8, all problems are drawn alike."""
    tau: PositiveFloat = 0.001
    """Width of the preference exp(-|predicted - target| / tau): small is nearly the nearest ones."""
    target_accuracy: Fraction = 0.5
    """Predicted accuracy of the problems that are wanted."""
    pool_windows: PositiveInt = 8
    """Windows' worth of candidates of a step, among which the strategy chooses."""


class CustomConfig(Node):
    """A strategy of the user's own, by import path."""

    name: Literal["custom"] = "custom"
    strategy: str = ""
    """module:Class, a subclass of gainrl_ray.curricula.base.Strategy; modules are looked for beside the job too."""
    options: dict[str, Any] = Field(default={})
    """What the strategy is configured by; its class attribute `options` names the section that checks it."""

    @field_validator("strategy")
    @classmethod
    def _is_a_path(cls, strategy: str) -> str:
        module, colon, name = strategy.partition(":")
        if not (module and colon and name):
            raise ValueError(f"received {strategy!r}; accepted: module:Class, as in my_curricula:MyStrategy")
        return strategy


CurriculumConfig = Annotated[
    GainConfig
    | LengthConfig
    | PassRateConfig
    | ExternalConfig
    | UniformConfig
    | SequentialConfig
    | AdarftConfig
    | BanditConfig
    | DpsConfig
    | DotsConfig
    | CustomConfig,
    Field(discriminator="name"),
]
