"""Log-probabilities to the GRPO-family loss and its statistics.

GRPO (arXiv 2402.03300), Dr.GRPO (2503.20783), DAPO (2503.14476) and GSPO (2507.18071) are settings of LossConfig.
The normalisation of the loss is not here: it is in `token_weights`, made by `batching` over a whole optimizer
update, so that the loss of an update is the plain sum over micro-batches and ranks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gainrl_ray.config import LossConfig


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The loss of one micro-batch and what to add up beside it."""

    loss: Tensor  # scalar float32
    sums: dict[str, Tensor]  # detached float64 scalars, additive over micro-batches and ranks: see `policy_loss`


def policy_loss(
    *,
    logprobs: Tensor,
    old_logprobs: Tensor,
    generator_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    response_mask: Tensor,
    token_weights: Tensor,
    config: LossConfig,
) -> LossTerms:
    """The sum over tokens of token_weights * (importance * clipped surrogate + kl_coef * k3), and its statistics.

    logprobs, old_logprobs, generator_logprobs, ref_logprobs, response_mask, token_weights: [batch, seq];
    advantages: [batch]. Whatever stands where response_mask is False, nan and inf included, has no effect.
    The gradient flows through `logprobs` only.

    sums, each a sum over the tokens of response_mask: `tokens` 1; `kl` the k3 estimate of KL(policy, reference);
    `clipped` 1 where the clip cuts the gradient; `importance` the truncated importance weight;
    `mismatch` generator_logprobs - old_logprobs.

    For a group replayed from an older policy mu, whose log-probabilities are generator_logprobs, importance times the
    clipped surrogate is the surrogate of pi / mu clipped to [(1 - clip_low) old / mu, (1 + clip_high) old / mu], the
    loss of rollout replay (DOTS, arXiv 2506.05316), as long as old / mu stays below importance_cap; DOTS has no cap.

    With `ratio="sequence"` every token of a sequence has the sequence's ratio, and the importance weights still
    are the tokens' own; GSPO's paper has no importance correction.
    """
    mask = response_mask.bool()
    logprobs, old, generator = (
        _masked(mask, values) for values in (logprobs, old_logprobs.detach(), generator_logprobs.detach())
    )
    ratio = _ratio(logprobs - old, mask, config)
    surrogate, is_clipped = _surrogate(ratio, advantages.detach().float().unsqueeze(1), config)
    importance = _importance(old, generator, config.importance_cap)
    kl = k3_kl(logprobs, _masked(mask, ref_logprobs.detach())) if ref_logprobs is not None else torch.zeros_like(old)
    objective = importance * surrogate + config.kl_coef * kl
    loss = (_masked(mask, token_weights) * _masked(mask, objective)).sum()
    statistics = {
        "tokens": torch.ones_like(old),
        "kl": kl,
        "clipped": is_clipped.expand_as(old),
        "importance": importance,
        "mismatch": generator - old,
    }
    return LossTerms(loss, {name: _masked(mask, values).detach().double().sum() for name, values in statistics.items()})


def k3_kl(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The k3 estimate of KL(policy, reference) per token, never negative; differentiable in `logprobs`.

    exp(d) - d - 1 with d = ref_logprobs - logprobs. Source: GRPO, arXiv 2402.03300, eq. 4.
    """
    difference = ref_logprobs - logprobs
    return torch.expm1(difference) - difference


def _ratio(log_ratio: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """The probability ratio, [batch, seq] per token or [batch, 1] per sequence (GSPO, arXiv 2507.18071, eq. 7)."""
    if config.ratio == "token":
        return log_ratio.exp()
    return (log_ratio.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)).exp()


def _surrogate(ratio: Tensor, advantage: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """PPO's clipped surrogate as a loss, and where the clip cuts its gradient; both of ratio's shape."""
    low, high = 1.0 - config.clip_low, 1.0 + config.clip_high
    surrogate = -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
    return surrogate, ((advantage > 0) & (ratio > high)) | ((advantage < 0) & (ratio < low))


def _importance(old: Tensor, generator: Tensor, cap: float | None) -> Tensor:
    """min(exp(old - generator), cap) per token; 1 without a cap. It corrects for what the engine really sampled."""
    return torch.ones_like(old) if cap is None else (old - generator).exp().clamp(max=cap)


def _masked(mask: Tensor, values: Tensor) -> Tensor:
    """Float32 values, 0 where mask is False: chosen, not multiplied, since 0 * nan is nan in value and gradient."""
    values = values.float()
    return torch.where(mask, values, torch.zeros_like(values))
