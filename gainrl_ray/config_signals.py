"""The section of the configuration about static signals of problems, computed before training."""

from typing import Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from gainrl_ray.config_node import Node

SignalName = Literal["pass_rate", "gold_likelihood", "gradient_alignment", "embedding"]
SIGNAL_NAMES: tuple[SignalName, ...] = get_args(SignalName)


class SignalsConfig(Node):
    """Signals of every problem before training: `jobs/score.py --signal=NAME`, and their diagnosis."""

    samples: int = Field(default=8, ge=2)
    """Completions per problem of the start model behind `pass_rate` and `gradient_alignment`."""
    seed: NonNegativeInt = 0
    """Seed of these completions, whatever run.seed is: runs that differ in their seed measure problems once."""
    gold_before: str = "The answer is \\boxed{"
    """Text put between prompt and reference answer for `gold_likelihood`; it has no part in the likelihood."""
    embedding_size: PositiveInt = 64
    """Numbers per problem of `embedding`."""
    warm_model: str | None = None
    """Model of `gradient_alignment`'s completions and gradients, such as the end of a short run; none = model.path."""
    gradient_blocks: PositiveInt = 1
    """Last blocks of the model whose linear layers the gradients of `gradient_alignment` are taken of."""
    gradient_side: PositiveInt = 32
    """A gradient is projected to the square of this many numbers."""
    block_problems: PositiveInt = 256
    """Problems sampled together; what is finished of an interrupted sampling are such blocks."""
    deadline_s: PositiveFloat = 86400.0
    """Longest time that sampling the completions may take, seconds."""
    diagnose_problems: int = Field(default=256, ge=4)
    """Problems, drawn at random, that `--diagnose` compares the signals on."""
