"""The sections of the configuration that choose problems: one a curriculum, told apart by `name`."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from gainrl_ray.config_node import Fraction, Node


class GainConfig(Node):
    """GAIN-RL's Gaussian window over the sorted index (arXiv 2506.02281)."""

    name: Literal["gain"] = "gain"
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
    """Accuracy at which the accuracy term is zero."""


class LengthConfig(GainConfig):
    """GAIN-RL's controller over prompts sorted by length: the control that a signal has to beat."""

    name: Literal["length"] = "length"  # pyright: ignore[reportIncompatibleVariableOverride]
    descending: bool = False
    """Longest prompt first."""


class UniformConfig(Node):
    """Shuffled passes: no problem twice within a pass."""

    name: Literal["uniform"] = "uniform"


class SequentialConfig(Node):
    """Dataset order, pass after pass."""

    name: Literal["sequential"] = "sequential"


CurriculumConfig = Annotated[GainConfig | LengthConfig | UniformConfig | SequentialConfig, Field(discriminator="name")]
