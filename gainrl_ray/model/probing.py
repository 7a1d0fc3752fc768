"""Log-probabilities of some tokens that other implementations of the policy are compared with."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gainrl_ray.algo.batching import probe_batch
from gainrl_ray.model.policy import PolicyModel, forward_micro_batch
from gainrl_ray.model.rounding import rounding_errors

PASSES = 2
"""Passes with rounding errors: two give their mean to about 10 %."""


@torch.no_grad()
def probe(
    forward: Callable[..., tuple[Tensor, Tensor]], policy: PolicyModel, token_ids: Sequence[int]
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """Log-probability of each token given those before it at temperature 1, the first, which has none, 0; and the same
    in PASSES passes under random rounding errors.

    forward: `policy` itself or the DeepSpeed engine around it.
    """

    def logprobs() -> tuple[float, ...]:
        output = forward_micro_batch(forward, policy, probe_batch(token_ids), temperature=1.0, measure=False)
        return tuple(output.logprobs[0].tolist())

    exact, rounded = logprobs(), []
    for seed in range(PASSES):
        with rounding_errors(policy, seed):
            rounded.append(logprobs())
    return exact, tuple(rounded)
