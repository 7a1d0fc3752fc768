"""An output head whose products are added up and kept in float32, as vLLM's with head_dtype=float32 are."""

from typing import Any

import torch
from torch import Tensor


def widen_head(model: Any) -> None:
    """Nothing; the model's logits are float32 from then on, of the same weights in their own dtype."""
    head = model.get_output_embeddings()

    def forward(states: Tensor) -> Tensor:
        logits = _WideProduct.apply(states.flatten(0, -2), head.weight)
        if head.bias is not None:
            logits = logits + head.bias.float()
        return logits.unflatten(0, states.shape[:-1])

    head.forward = forward


class _WideProduct(torch.autograd.Function):
    """states [tokens, hidden] times weight [vocabulary, hidden], transposed; float32 [tokens, vocabulary].

    No float32 copy of the weight is kept for the backward pass, which computes in the weight's dtype as usual.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(states, weight)
        if states.is_cuda:
            return torch.mm(states, weight.t(), out_dtype=torch.float32)
        return states.float() @ weight.float().t()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        states, weight = ctx.saved_tensors
        narrow = gradient.to(weight.dtype)
        return narrow @ weight, narrow.t() @ states
