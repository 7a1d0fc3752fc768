"""Graded groups to projected policy gradients of a model's last linear layers, one problem at a time."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gainrl_ray.algo.projection import sign_matrix
from gainrl_ray.errors import ModelError
from gainrl_ray.model.policy import PolicyModel, forward_micro_batch
from gainrl_ray.model.prefill import decoder_blocks
from gainrl_ray.types import MicroBatch


class GradientProjector:
    """Gradients of the GRPO objective with respect to the weights of the linear layers of the last blocks.

    Gradients flow back no further than the first of those blocks, and the weights' own are never built: the gradient
    of a linear layer is sum_t delta_t x_t^T over tokens, so its projection by a Kronecker product is that of the
    projected delta_t and x_t. The projections of all layers, each by signs of its own, are added up: inner products
    of the sums are those of the whole gradients on average.
    """

    def __init__(self, policy: PolicyModel, blocks: int, side: int | None) -> None:
        """Draw the projections.

        Args:
            policy: in evaluation mode; its weights stop requiring gradients.
            blocks: how many of the last blocks; all when there are fewer.
            side: a gradient is projected to side^2 numbers; None leaves it whole, layer after layer.

        Raises:
            ModelError: those blocks have no torch.nn.Linear.
        """
        self._policy, self._side = policy, side
        chosen = list(decoder_blocks(policy.language_model))[-blocks:]
        self._first = chosen[0]
        self._layers = [m for block in chosen for m in block.modules() if isinstance(m, nn.Linear)]
        if not self._layers:
            raise ModelError(
                f"{type(policy.language_model).__name__} has no torch.nn.Linear in its last {len(chosen)} blocks, so "
                "it has no gradients to compare: use a model such as Qwen2, Llama or Mistral"
            )
        policy.requires_grad_(False)
        self._inputs = [self._signs(layer.in_features, place, "input") for place, layer in enumerate(self._layers)]
        self._outputs = [self._signs(layer.out_features, place, "output") for place, layer in enumerate(self._layers)]

    def __call__(self, batches: Sequence[MicroBatch], temperature: float) -> Tensor:
        """The gradient of sum(token_weights * advantage * -logprob) over the batches, float32 on the CPU.

        [side^2] projected, else [weights of the layers], out_features by in_features of each. That is the gradient of
        the GRPO surrogate at the policy that generated the completions, where every ratio is 1.
        """
        device = next(self._policy.parameters()).device
        sums = [torch.zeros(b, a, device=device) for b, a in map(self._shape, range(len(self._layers)))]
        with self._collecting(sums):
            for batch in batches:
                logprobs = forward_micro_batch(
                    self._policy, self._policy, batch, temperature=temperature, measure=False
                ).logprobs
                weights = torch.from_numpy(batch.token_weights * batch.advantages[:, None]).to(device)
                (-(weights * logprobs).sum()).backward()
        if self._side is None:
            return torch.cat([total.flatten() for total in sums]).cpu()
        return torch.stack(sums).sum(dim=0).flatten().cpu()

    def _signs(self, size: int, layer: int, end: str) -> Tensor | None:
        if self._side is None:
            return None
        signs = sign_matrix(size, self._side, 0, layer, end)
        return torch.from_numpy(signs).to(next(self._policy.parameters()).device)

    def _shape(self, layer: int) -> tuple[int, int]:
        module = self._layers[layer]
        return (self._side, self._side) if self._side else (module.out_features, module.in_features)

    @contextmanager
    def _collecting(self, sums: list[Tensor]) -> Iterator[None]:
        """Add what passes forwards and backwards through the layers to `sums` within the context."""
        with ExitStack() as stack:
            hook = self._first.register_forward_pre_hook(_cut)
            stack.callback(hook.remove)
            for layer, total, at_input, at_output in zip(self._layers, sums, self._inputs, self._outputs, strict=True):
                hook = layer.register_forward_hook(partial(_collect, total, at_input, at_output))
                stack.callback(hook.remove)
            yield


def _cut(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The block's arguments with hidden states that gradients reach and do not pass."""
    return arguments[0].detach().requires_grad_(), *arguments[1:]


def _collect(
    total: Tensor, at_input: Tensor | None, at_output: Tensor | None, _: nn.Module, inputs: Any, output: Tensor
) -> None:
    """Add the layer's gradient to `total` when it passes backwards."""
    if not output.requires_grad:
        return
    states = _projected(inputs[0].detach(), at_input)

    def add(gradient: Tensor) -> None:
        total.add_(_projected(gradient, at_output).T @ states)

    output.register_hook(add)


def _projected(values: Tensor, signs: Tensor | None) -> Tensor:
    """[tokens, size] float32."""
    flat = values.flatten(0, -2).float()
    return flat if signs is None else flat @ signs
