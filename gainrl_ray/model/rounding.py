"""Random rounding errors in a model's forward pass: what its dtype's precision does to its results."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def rounding_errors(model: nn.Module, seed: int) -> Iterator[None]:
    """Within the context the result of each of the model's innermost modules is off by up to half a unit in the last
    place, at random, as if it had been rounded once more.

    The same `seed` gives the same errors. Any architecture, sharded by ZeRO-3 or not: weights are not touched.
    """
    generators: dict[torch.device, torch.Generator] = {}

    def disturb(_: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        device = output.device
        if device not in generators:
            generators[device] = torch.Generator(device).manual_seed(seed)
        errors = torch.rand(output.shape, generator=generators[device], device=device) - 0.5
        wide = output.to(torch.promote_types(output.dtype, torch.float32))
        return (wide + wide * (torch.finfo(output.dtype).eps * errors)).to(output.dtype)

    with ExitStack() as stack:
        for module in model.modules():
            if not any(module.children()):
                stack.callback(module.register_forward_hook(disturb).remove)
        yield
