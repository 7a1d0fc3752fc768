"""The GRPO family against numbers worked by hand. Ratios are given as log-probabilities of chosen powers."""

from math import log

import pytest
import torch
from tolerances import assert_equal_but_for_rounding, rounding
from torch import Tensor

from gainrl_ray.algo.losses import k3_kl, policy_loss
from gainrl_ray.config import LossConfig

NO_IMPORTANCE = {"importance_cap": None}
ROUNDED = rounding(16)
"""From log-probabilities to a loss of a few tokens, of numbers about 1, where the constants have seven digits."""


def _loss(config: LossConfig, ratios: list[list[float]], advantages: list[float], weights: list[list[float]], **extra):
    """Loss and gradient with respect to logprobs, with old log-probabilities of log(1/2) everywhere."""
    old = torch.full_like(torch.tensor(ratios), log(0.5))
    logprobs = (torch.tensor(ratios).log() + old).requires_grad_()
    values: dict[str, Tensor | None] = {
        "old_logprobs": old,
        "generator_logprobs": old,
        "ref_logprobs": None,
        "response_mask": torch.tensor(weights) > 0,
        **extra,
    }
    terms = policy_loss(
        logprobs=logprobs,
        advantages=torch.tensor(advantages),
        token_weights=torch.tensor(weights),
        config=config,
        **values,  # type: ignore[arg-type]
    )
    terms.loss.backward()
    assert logprobs.grad is not None
    return terms, logprobs.grad


def test_grpo_is_the_mean_over_sequences_of_token_means() -> None:
    # Sequences of 2 and 1 tokens, group-normalised advantages of rewards (1, 0): +-0.5 / 0.7071 = +-0.7071.
    # Objective: 1/2 * [1/2 * (1.1 + min(1.5, 1.2)) * 0.7071 + max-of-loss(0.9) * -0.7071]
    #   = 1/2 * 0.7071 * (1.15 - 0.9) = 0.0883883
    config = LossConfig(normalisation="sequence", advantage_std=True, **NO_IMPORTANCE)
    advantage = 0.5 / 0.5**0.5
    terms, gradient = _loss(config, [[1.1, 1.5], [0.9, 1.0]], [advantage, -advantage], [[0.25, 0.25], [0.5, 0.0]])
    assert terms.loss.item() == pytest.approx(-0.0883883, abs=ROUNDED)
    # d/dlogprob = -weight * ratio * advantage; the clipped token and the one outside the response have none.
    expected = [[-0.25 * 1.1 * advantage, 0.0], [0.5 * 0.9 * advantage, 0.0]]
    assert torch.allclose(gradient, torch.tensor(expected), atol=ROUNDED)
    assert {name: value.item() for name, value in terms.sums.items()} == {
        "tokens": 3,
        "kl": 0,
        "clipped": 1,
        "importance": 3,
        "mismatch": 0,
    }


def test_dr_grpo_divides_by_a_constant_and_not_by_std() -> None:
    # max_new_tokens 4, two sequences: every token weighs 1/8; advantages of rewards (1, 0) are +-0.5.
    # -(1/8) * [(1.1 + 1.0 + 1.2) * 0.5 - 0.9 * 0.5] = -(1/8) * 1.2 = -0.15
    config = LossConfig(normalisation="constant", advantage_std=False, **NO_IMPORTANCE)
    terms, _ = _loss(config, [[1.1, 1.0, 1.2], [0.9, 1.0, 1.0]], [0.5, -0.5], [[1 / 8] * 3, [1 / 8, 0, 0]])
    assert terms.loss.item() == pytest.approx(-0.15, abs=ROUNDED)


def test_dapo_is_the_mean_over_tokens_with_a_higher_upper_clip() -> None:
    # 4 tokens in all; clip to [0.8, 1.28]. Sequence 1 (advantage 1): 1.25 kept, 1.5 -> 1.28; sequence 2
    # (advantage -1): 0.7 -> 0.8 (the larger loss is kept), 1.5 is not clipped on this side.
    # -(1/4) * (1.25 + 1.28 - 0.8 - 1.5) = -0.0575
    config = LossConfig(normalisation="token", clip_low=0.2, clip_high=0.28, **NO_IMPORTANCE)
    terms, gradient = _loss(config, [[1.25, 1.5], [0.7, 1.5]], [1.0, -1.0], [[0.25] * 2] * 2)
    assert terms.loss.item() == pytest.approx(-0.0575, abs=ROUNDED)
    assert torch.allclose(gradient, torch.tensor([[-0.25 * 1.25, 0.0], [0.0, 0.25 * 1.5]]), atol=ROUNDED)
    assert terms.sums["clipped"].item() == 2


def test_gspo_shares_one_ratio_in_a_sequence() -> None:
    # Sequence 1: ratios 2 and 1/2, geometric mean 1; tokens alone would both be clipped or not alike.
    # Sequence 2: one trained token of ratio 1.21 (the second, outside the response, would change the mean).
    # Sequence 3: 1.44 and 1.21, mean exp((log 1.44 + log 1.21) / 2) = 1.32 -> clipped at 1.3.
    # Advantages 1, -1, 2: -(1/3) * (1 - 1.21 + 2 * 1.3) = -0.7966667
    config = LossConfig(ratio="sequence", normalisation="sequence", clip_low=0.2, clip_high=0.3, **NO_IMPORTANCE)
    weights = [[1 / 6, 1 / 6], [1 / 3, 0.0], [1 / 6, 1 / 6]]
    terms, gradient = _loss(config, [[2.0, 0.5], [1.21, 9.0], [1.44, 1.21]], [1.0, -1.0, 2.0], weights)
    assert terms.loss.item() == pytest.approx(-0.7966667, abs=ROUNDED)
    # eq. 7 of arXiv 2507.18071: d s / d logprob_t = s / length, the same for every token of the sequence.
    expected = [[-1 / 3 * 1.0 / 2] * 2, [1 / 3 * 1.21, 0.0], [0.0, 0.0]]
    assert torch.allclose(gradient, torch.tensor(expected), atol=ROUNDED)
    assert terms.sums["clipped"].item() == 2
    assert terms.sums["tokens"].item() == 5


def test_k3_and_its_gradient() -> None:
    # d = ref - logprob. d = log 2: 2 - log 2 - 1 = 0.3068528; d = -log 2: 0.5 + log 2 - 1 = 0.1931472.
    logprobs = torch.tensor([log(0.2), log(0.2)], requires_grad=True)
    kl = k3_kl(logprobs, torch.tensor([log(0.4), log(0.1)]))
    assert kl.tolist() == pytest.approx([0.3068528, 0.1931472], abs=ROUNDED)
    kl.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([1 - 2, 1 - 0.5], abs=ROUNDED)


def test_k3_averages_to_the_divergence() -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    expected = 0.5 * log(0.5 / 0.2) + 0.3 * log(0.3 / 0.5) + 0.2 * log(0.2 / 0.3)
    assert (policy * k3_kl(policy.log(), reference.log())).sum().item() == pytest.approx(expected, abs=ROUNDED)


def test_kl_is_added_with_its_coefficient_and_not_importance_weighted() -> None:
    # One token, ratio 1, advantage 1, weight 1: -2 (importance capped at 2) + 0.1 * 0.3068528.
    config = LossConfig(kl_coef=0.1, importance_cap=2.0)
    terms, _ = _loss(
        config,
        [[1.0]],
        [1.0],
        [[1.0]],
        ref_logprobs=torch.tensor([[0.0]]),
        generator_logprobs=torch.tensor([[log(0.1)]]),
    )
    assert terms.loss.item() == pytest.approx(-2 + 0.03068528, abs=ROUNDED)
    assert terms.sums["kl"].item() == pytest.approx(0.3068528, abs=ROUNDED)
    assert terms.sums["importance"].item() == pytest.approx(2.0)
    assert terms.sums["mismatch"].item() == pytest.approx(log(0.1 / 0.5), abs=ROUNDED)


def test_importance_weights_are_truncated_above_only() -> None:
    # old = 0.5. generator 0.4 -> 1.25; 0.1 -> 5, cut to 1.5; 0.8 -> 0.625, below 1 / 1.5.
    config = LossConfig(importance_cap=1.5)
    generator = torch.tensor([[0.4, 0.1, 0.8]]).log()
    terms, gradient = _loss(config, [[1.0, 1.0, 1.0]], [1.0], [[1.0, 1.0, 1.0]], generator_logprobs=generator)
    assert terms.loss.item() == pytest.approx(-3.375, abs=ROUNDED)
    assert torch.allclose(gradient, torch.tensor([[-1.25, -1.5, -0.625]]), atol=ROUNDED)
    assert terms.sums["importance"].item() == pytest.approx(3.375, abs=ROUNDED)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_nothing_leaks_from_outside_the_response(poison: float, ratio: str) -> None:
    config = LossConfig(ratio=ratio, kl_coef=0.1)  # type: ignore[arg-type]
    mask = torch.tensor([[False, True, True, False], [False, False, False, False]])
    clean = torch.log(torch.tensor([[0.5, 0.4, 0.3, 0.2], [0.5, 0.4, 0.3, 0.2]]))
    results = []
    for fill in (0.0, poison):
        bad = torch.where(mask, clean, torch.tensor(fill))
        logprobs = torch.where(mask, clean * 1.1, torch.tensor(fill)).requires_grad_()
        terms = policy_loss(
            logprobs=logprobs,
            old_logprobs=bad,
            generator_logprobs=bad,
            ref_logprobs=bad,
            advantages=torch.tensor([1.0, -1.0]),
            response_mask=mask,
            token_weights=torch.where(mask, 0.5, 0.0),
            config=config,
        )
        terms.loss.backward()
        assert logprobs.grad is not None
        results.append((terms.loss.item(), logprobs.grad, {name: value.item() for name, value in terms.sums.items()}))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][2] == results[1][2]
    assert torch.equal(results[1][1][~mask], torch.zeros(6))


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    values = {
        name: -torch.rand(6, 5, generator=generator)
        for name in ("logprobs", "old_logprobs", "generator_logprobs", "ref_logprobs")
    }
    mask = torch.rand(6, 5, generator=generator) > 0.3
    weights = torch.where(mask, 1.0 / mask.sum(), 0.0)
    advantages = torch.randn(6, generator=generator)
    config = LossConfig(kl_coef=0.05)

    def part(rows: slice):
        own = {name: value[rows] for name, value in values.items()}
        return policy_loss(
            **own, advantages=advantages[rows], response_mask=mask[rows], token_weights=weights[rows], config=config
        )

    whole, parts = part(slice(0, 6)), [part(slice(0, 1)), part(slice(1, 4)), part(slice(4, 6))]
    assert sum(terms.loss.item() for terms in parts) == pytest.approx(whole.loss.item(), abs=ROUNDED)
    for name, value in whole.sums.items():
        assert sum(terms.sums[name].item() for terms in parts) == pytest.approx(value.item(), abs=ROUNDED)


def test_a_batch_without_response_has_a_zero_loss_that_can_go_backward() -> None:
    terms, gradient = _loss(LossConfig(), [[1.0, 1.0]], [0.0], [[0.0, 0.0]])
    assert terms.loss.item() == 0.0
    assert gradient.tolist() == [[0.0, 0.0]]
    assert terms.sums["tokens"].item() == 0


def test_gradient_agrees_with_finite_differences() -> None:
    torch.manual_seed(1)
    old = -torch.rand(2, 3) - 0.1
    config = LossConfig(kl_coef=0.2, ratio="sequence", normalisation="sequence", clip_low=0.5, clip_high=0.5)

    def loss(logprobs: Tensor) -> Tensor:
        return policy_loss(
            logprobs=logprobs,
            old_logprobs=old,
            generator_logprobs=old - 0.1,
            ref_logprobs=old + 0.2,
            advantages=torch.tensor([1.0, -2.0]),
            response_mask=torch.tensor([[True, True, False], [True, True, True]]),
            token_weights=torch.tensor([[0.25, 0.25, 0.0], [1 / 6, 1 / 6, 1 / 6]]),
            config=config,
        ).loss

    step, point = 1e-2, (old + 0.05 * torch.randn(2, 3)).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(point), point)
    for index in range(6):
        shift = torch.zeros(6)
        shift[index] = step
        shift = shift.view(2, 3)
        slope = (loss(point.detach() + shift) - loss(point.detach() - shift)).item() / (2 * step)
        assert gradient.flatten()[index].item() == pytest.approx(
            slope, abs=20 * step**2
        )  # the error is step^2 / 6 third derivatives


def test_importance_times_the_clipped_surrogate_is_the_clipped_ratio_to_the_behaviour_policy() -> None:
    """The replay loss of DOTS: policy / behaviour, clipped to [(1 - eps) old / behaviour, (1 + eps) old / behaviour].

    Worked for one token: behaviour 1/2, old 1/4, policy 3/8. Ratio 3/4; the range is [0.8, 1.2] / 2 = [0.4, 0.6];
    advantage 1: -min(0.75, 0.6) = -0.6; advantage -1: -min(-0.75, -0.6) = 0.75.
    """
    config = LossConfig(clip_low=0.2, clip_high=0.2, importance_cap=1e6)
    generator = torch.full((1, 1), log(0.5))
    for advantage, expected in ((1.0, -0.6), (-1.0, 0.75)):
        terms = policy_loss(
            logprobs=torch.full((1, 1), log(3 / 8)),
            old_logprobs=torch.full((1, 1), log(1 / 4)),
            generator_logprobs=generator,
            ref_logprobs=None,
            advantages=torch.tensor([advantage]),
            response_mask=torch.ones(1, 1, dtype=torch.bool),
            token_weights=torch.ones(1, 1),
            config=config,
        )
        assert terms.loss.item() == pytest.approx(expected, abs=ROUNDED)
    draws = torch.Generator().manual_seed(1)
    logprobs, old, behaviour = (-2 * torch.rand(6, 9, generator=draws, dtype=torch.float64) for _ in range(3))
    advantages = torch.randn(6, generator=draws)
    logprobs.requires_grad_()
    ratio, bound = (logprobs - behaviour).exp(), (old - behaviour).exp()
    clipped = torch.minimum(torch.maximum(ratio, 0.8 * bound), 1.2 * bound)
    direct = -torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None]).sum()
    (expected_gradient,) = torch.autograd.grad(direct, logprobs)
    terms = policy_loss(
        logprobs=logprobs,
        old_logprobs=old,
        generator_logprobs=behaviour,
        ref_logprobs=None,
        advantages=advantages,
        response_mask=torch.ones(6, 9, dtype=torch.bool),
        token_weights=torch.ones(6, 9),
        config=config,
    )
    (gradient,) = torch.autograd.grad(terms.loss, logprobs)
    assert terms.loss.item() == pytest.approx(
        direct.item(), abs=rounding(54 + 16, float((ratio * advantages[:, None]).abs().sum()))
    )
    assert_equal_but_for_rounding(gradient, expected_gradient, 16)
