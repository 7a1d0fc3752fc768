"""Random rounding errors: of the size of the dtype's rounding, the same for the same seed, gone afterwards."""

import pytest
import torch
from tolerances import rounding, roundings_in
from torch import nn

from gainrl_ray.config import ModelConfig
from gainrl_ray.model.loading import load_model
from gainrl_ray.model.policy import PolicyModel
from gainrl_ray.model.probing import PASSES, probe
from gainrl_ray.model.rounding import rounding_errors

TOKENS = tuple(torch.randint(5, 400, (60,), generator=torch.Generator().manual_seed(0)).tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_result_moves_by_up_to_half_a_unit_in_the_last_place(dtype: torch.dtype) -> None:
    layer = nn.Identity()
    values = torch.linspace(1.0, 1.9, 2000).to(dtype)  # between 1 and 2 a unit in the last place is eps
    with rounding_errors(layer, 0):
        moved = (layer(values).double() - values.double()) / torch.finfo(dtype).eps
        again = layer(values)
    assert moved.abs().max() <= 1.0  # up to 0.95 before the result is rounded itself
    assert 0.1 < moved.abs().mean() < 0.5
    assert abs(moved.mean()) < 0.05
    assert not torch.equal(again, values), "every pass has errors of its own"
    with rounding_errors(layer, 0):
        assert torch.equal((layer(values).double() - values.double()) / torch.finfo(dtype).eps, moved)
    assert torch.equal(layer(values), values)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_probe_tells_what_rounding_does(dtype: str) -> None:
    model = load_model(ModelConfig(path="tiny", dtype=dtype))
    policy = PolicyModel(model)
    assert policy.response_head is not None, "its logits are among what is disturbed"
    logprobs, rounded = probe(policy, policy, TOKENS)
    with torch.no_grad():
        table = model(torch.tensor([TOKENS])).logits[0].float().log_softmax(-1)
    ids = torch.tensor(TOKENS[1:])
    eps, roundings = torch.finfo(model.dtype).eps, roundings_in(model)
    # the same arithmetic, in another order of sums
    torch.testing.assert_close(
        torch.tensor(logprobs[1:]),
        table[torch.arange(len(ids)), ids],
        rtol=0,
        atol=rounding(roundings, dtype=model.dtype),
    )
    assert logprobs[0] == 0.0
    assert len(rounded) == PASSES
    errors = (torch.tensor(rounded) - torch.tensor(logprobs)).abs()[:, 1:]
    assert eps / 2 < errors.mean() < roundings**0.5 * eps
    assert probe(policy, policy, TOKENS) == (logprobs, rounded)
