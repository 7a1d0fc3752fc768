"""Logits in float32 of weights in bfloat16: values and gradients against the product in float64."""

import pytest
import torch
from torch import nn

from gainrl_ray.config import ModelConfig
from gainrl_ray.model.loading import load_model
from gainrl_ray.model.wide_head import widen_head


class _Model(nn.Module):
    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.head = nn.Linear(48, 70, bias=bias, dtype=torch.bfloat16)

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


@pytest.mark.parametrize("bias", [False, True])
def test_values_are_the_float64_product_and_gradients_those_of_the_narrow_one(bias: bool) -> None:
    torch.manual_seed(0)
    model = _Model(bias=bias)
    states = torch.randn(2, 5, 48, dtype=torch.bfloat16, requires_grad=True)
    exact = states.double() @ model.head.weight.double().t()
    if bias:
        exact = exact + model.head.bias.double()
    narrow = model.head(states)
    widen_head(model)
    wide = model.head(states)
    assert wide.dtype == torch.float32
    assert (wide - exact).abs().max() < 48 * torch.finfo(torch.float32).eps * exact.abs().max()
    assert (narrow - exact).abs().max() > 1e-3, "bfloat16 rounds"

    weights = torch.randn(2, 5, 70).bfloat16()  # whatever comes back is exact in bfloat16
    parameters = [states, *model.head.parameters()]
    found = torch.autograd.grad((wide * weights).sum(), parameters)
    wanted = torch.autograd.grad((exact * weights).sum(), parameters)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.bfloat16
        # one rounding of the sum
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=float(other.abs().max()) * 2**-7)


def test_a_loaded_model_has_it_where_it_is_asked_for() -> None:
    tokens = torch.tensor([[5, 6, 7]])
    for dtype, head, expected in (
        ("bfloat16", "float32", torch.float32),
        ("bfloat16", "model", torch.bfloat16),
        ("float32", "float32", torch.float32),
    ):
        model = load_model(ModelConfig(path="tiny", dtype=dtype, head_dtype=head))
        with torch.no_grad():
            assert model(tokens).logits.dtype == expected
