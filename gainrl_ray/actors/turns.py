"""Taking turns on a device: what a learner moves to host memory while the engines generate, and back."""

from typing import Any

import torch


def rest(engine: Any, reference: Any) -> None:
    """Move all that the DeepSpeed engine and the reference policy hold on the device to host memory.

    Weights can be read from there. On CPU the states pass through the same calls and stay where they are. Under ZeRO-3
    parameters and optimizer live in host memory anyway (the settings ask for it), and nothing is moved.
    """
    on_gpu = engine.device.type == "cuda"
    if engine.zero_optimization_stage() == 2:
        engine.offload_states(pin_memory=on_gpu)
        _move(engine, reference, "cpu")
    if on_gpu:
        torch.cuda.empty_cache()


def resume(engine: Any, reference: Any) -> None:
    """Move back what `rest` moved."""
    if engine.zero_optimization_stage() == 2:
        engine.reload_states()
        _move(engine, reference, engine.device)


def _move(engine: Any, reference: Any, device: Any) -> None:
    """Move what is not trained, which DeepSpeed leaves where it is: frozen weights, buffers and the reference."""
    frozen = (weight for weight in engine.module.parameters() if not weight.requires_grad)
    for tensor in (*frozen, *engine.module.buffers()):
        tensor.data = tensor.data.to(device)
    if isinstance(reference, torch.nn.Module):
        reference.to(device)
