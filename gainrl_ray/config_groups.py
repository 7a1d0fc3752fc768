"""The sections of the configuration that say what becomes of groups: which are wanted, and which come again."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from gainrl_ray.config_node import Node


class AllGroupsConfig(Node):
    """Every group of the window is generated, once and whole; loss.uninformative tells what becomes of those without
    spread."""

    name: Literal["all"] = "all"


class DynamicSamplingConfig(Node):
    """Draw and generate until the step has as many groups with spread as it wants (DAPO, arXiv 2503.14476)."""

    name: Literal["dynamic_sampling"] = "dynamic_sampling"
    max_refills: NonNegativeInt = 10
    """Rounds of refilling a step; when they are used up it is trained on the groups that it has."""
    max_drawn: Annotated[float, Field(ge=1.0)] = 8.0
    """Most problems drawn for a step, those skipped included, over those of its window."""


class GresoConfig(DynamicSamplingConfig):
    """Dynamic sampling that skips problems whose last visits had no spread (GRESO, arXiv 2506.02177)."""

    name: Literal["greso"] = "greso"  # pyright: ignore[reportIncompatibleVariableOverride]
    target_zero_variance: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    """Share of generated groups without spread that the skip probabilities are steered to; a third of it for
    problems always solved, two thirds for problems never solved."""


class SpeedConfig(DynamicSamplingConfig):
    """Dynamic sampling that screens a problem with few completions before it asks for all (SPEED, arXiv 2506.09016)."""

    name: Literal["speed"] = "speed"  # pyright: ignore[reportIncompatibleVariableOverride]
    screen: Annotated[int, Field(ge=2)] = 4
    """Completions of the screening, below rollout.group_size; the rest is generated where their rewards differ."""


GroupPolicyConfig = Annotated[
    AllGroupsConfig | DynamicSamplingConfig | GresoConfig | SpeedConfig, Field(discriminator="name")
]


class ReplayConfig(Node):
    """Groups of earlier steps that are trained once more (rollout replay of DOTS, arXiv 2506.05316)."""

    fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of a step's groups that come from the buffer, fewer while it is young; 0 = none. Needs
    loss.importance_cap, by which their weights against the policy that generated them are cut (the paper cuts none: a
    large cap comes near it). The metric mismatch_kl, and with it learner.max_kl, then counts their age too."""
    capacity: PositiveInt = 512
    """Groups in the buffer, in which a new one replaces the oldest; the memory of the pipeline has to hold them."""
