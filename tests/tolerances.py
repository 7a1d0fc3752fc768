"""How far two right evaluations may lie apart: from the number format and the length of the sums, from no machine.

Processors add up in different orders and widths (SSE, AVX2, AVX-512, NEON; fused or not), so the same code gives other
last bits on each. What the tests are about (a token left out, a mask, a stale weight) moves values by 0.001 to 1 of
their size, hundreds of times as much as what is allowed here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from gainrl_ray.model.loading import TINY_FOLDER
from gainrl_ray.types import Completion

CERTAINTY = 8.0
"""Standard deviations: one comparison in 10^14 goes wrong by chance."""


def rounding(roundings: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> float:
    """The largest difference of two evaluations of a number that so many roundings lead to.

    A rounding is off by at most eps / 2 of the numbers added up; independent ones grow as the root of their number.
    roundings: the length of the sum, of a chain of sums together. scale: the size of what is added up.

    Source: Higham & Mary 2019, "A new approach to probabilistic rounding error analysis", theorem 2.4: the error is at
    most CERTAINTY * sqrt(n) * eps / 2 * sum |x| with probability 1 - 2 exp(-CERTAINTY^2 / 2).
    """
    return CERTAINTY * math.sqrt(roundings) * torch.finfo(dtype).eps * scale


def roundings_in(model: Any) -> int:
    """Roundings on the way through a model, forwards or backwards: the longer side of each matrix, one after another.

    Forwards a product sums over a matrix's inputs, backwards over its outputs, the softmax over the vocabulary.
    Matrices that stand side by side (queries beside keys) count for the norms and attention between.
    """
    return _longer_sides(weight.shape for weight in model.parameters())


def _longer_sides(shapes: Iterable[Sequence[int]]) -> int:
    return sum(max(shape) for shape in shapes if len(shape) > 1)


def of_built_in() -> float:
    """Of log-probabilities of the built-in model in float32, nats: 9e-5."""
    with safe_open(TINY_FOLDER / "model.safetensors", "pt") as weights:
        return rounding(_longer_sides(weights.get_slice(name).get_shape() for name in weights.keys()))  # noqa: SIM118


def assert_same_completions(found: Mapping[str, Completion], expected: Mapping[str, Completion]) -> None:
    """Raises AssertionError unless they are the same tokens, and of the built-in model the same log-probabilities up to
    rounding: the products of another batch may add up in another order."""
    tokens, others = ({name: each.token_ids for name, each in side.items()} for side in (found, expected))
    assert tokens == others
    bound = of_built_in()
    for name, completion in found.items():
        pairs = zip(completion.logprobs, expected[name].logprobs, strict=True)
        assert max(abs(one - other) for one, other in pairs) <= bound, name


def assert_equal_but_for_rounding(
    found: Tensor | Sequence[Tensor], expected: Tensor | Sequence[Tensor], roundings: int
) -> None:
    """Raises AssertionError where float32 results differ by more than `rounding` allows at their own size.

    Tensors of one call have one scale, that of the largest: the gradients of a model, say, whose small ones come from
    sums of large numbers.
    """
    ours = [found] if isinstance(found, Tensor) else list(found)
    theirs = [expected] if isinstance(expected, Tensor) else list(expected)
    bound = rounding(roundings, max(float(value.abs().max()) for value in theirs))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=bound)
