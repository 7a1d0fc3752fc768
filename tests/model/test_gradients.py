from dataclasses import replace

import pytest
import torch
from test_prefill import GPT2, qwen2, random_model, some_prompts
from tolerances import assert_equal_but_for_rounding, rounding, roundings_in
from torch import nn

from gainrl_ray.actors.measures import GradientMeasure
from gainrl_ray.algo.projection import sign_matrix
from gainrl_ray.config import LossConfig
from gainrl_ray.errors import ModelError
from gainrl_ray.model.gradients import GradientProjector
from gainrl_ray.model.policy import PolicyModel
from gainrl_ray.types import Completion, Grade, GradedGroup, Outcome, Problem, RolloutGroup

TEMPERATURE = 0.7
REWARDS = (1.0, 0.0, 0.0, 1.0)
COMPLETIONS = ((31, 32, 1), (33, 1), (34, 35, 36, 37, 1), (38, 1))
MEASURE = GradientMeasure(
    blocks=2, side=None, loss=LossConfig(), temperature=TEMPERATURE, max_new_tokens=8, pack_tokens=0
)


def group(rewards=REWARDS):
    prompt = some_prompts(4)[3]
    completions = tuple(
        Completion(token_ids=ids, logprobs=(0.0,) * len(ids), finish_reason="stop", text="") for ids in COMPLETIONS
    )
    return GradedGroup(
        group=RolloutGroup(
            slot=0,
            row=0,
            problem=Problem(id="p", question="", answer="", source=""),
            prompt=prompt,
            completions=completions,
            policy_version=0,
        ),
        grades=tuple(Grade(outcome=Outcome.WRONG, reward=reward) for reward in rewards),
    )


def dense(model, blocks):
    """The gradients of the last blocks' linear layers by autograd, each completion run alone.

    Advantages of rewards 1, 0, 0, 1: (1 - 1/2) / sqrt(1/3) and its negative; 12 tokens in all.
    """
    prompt = some_prompts(4)[3].token_ids
    model.requires_grad_(True)
    loss = torch.zeros(())
    for ids, reward in zip(COMPLETIONS, REWARDS, strict=True):
        logits = model(torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0] / TEMPERATURE
        for place, token in enumerate(ids):
            logprob = logits[len(prompt) + place - 1].log_softmax(-1)[token]
            loss = loss - (reward - 0.5) / (1 / 3) ** 0.5 * logprob / 12
    model.zero_grad()
    loss.backward()
    layers = [m for block in model.model.layers[-blocks:] for m in block.modules() if isinstance(m, nn.Linear)]
    return [layer.weight.grad.clone() for layer in layers]


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("pack_tokens", [0, 64], ids=["rows", "a pack"])
@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_whole_gradients_are_those_of_autograd(blocks, pack_tokens, batch_tokens):
    model, measure = qwen2(), replace(MEASURE, blocks=blocks, pack_tokens=pack_tokens)
    expected = torch.cat([gradient.flatten() for gradient in dense(model, blocks)])
    projector = measure.load(model)
    found = projector(measure._batches(group(), batch_tokens), TEMPERATURE)
    assert_equal_but_for_rounding(found, expected, roundings_in(model))
    length = measure.values(projector, [group()], batch_tokens)["value"].to_pylist()
    assert length == pytest.approx([float(expected.norm())], rel=rounding(roundings_in(model)))


def test_projected_gradients_are_projections_of_those_of_autograd():
    model, measure = qwen2(), replace(MEASURE, side=6)
    expected = torch.zeros(6, 6)
    for place, gradient in enumerate(dense(model, 2)):
        at_output = torch.from_numpy(sign_matrix(gradient.shape[0], 6, 0, place, "output"))
        at_input = torch.from_numpy(sign_matrix(gradient.shape[1], 6, 0, place, "input"))
        expected += at_output.T @ gradient @ at_input
    found = measure.values(measure.load(model), [group(), group()], 40)["value"].to_pylist()
    for gradient in found:
        assert_equal_but_for_rounding(torch.tensor(gradient).reshape(6, 6), expected, roundings_in(model))


def test_a_group_of_equal_rewards_has_no_gradient():
    measure = replace(MEASURE, side=3)
    found = measure.values(measure.load(qwen2()), [group((1.0,) * 4)], 40)["value"].to_pylist()
    assert found == [[0.0] * 9]


def test_nothing_stays_behind_on_the_model():
    model = qwen2()
    projector = MEASURE.load(model)
    projector(MEASURE._batches(group(), 100), TEMPERATURE)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel has no torch.nn.Linear in its last 2 blocks"):
        GradientProjector(PolicyModel(random_model(GPT2)), 2, 4)
