"""A small random model of another's architecture, on which learner and engine can be tried out within seconds."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from gainrl_ray.config import ModelConfig
from gainrl_ray.model.export import without_weights
from gainrl_ray.model.loading import causal_config, load_tokenizer
from gainrl_ray.model.prefill import block_list
from gainrl_ray.model.trials import few


def save_small(config: ModelConfig, folder: Path) -> ModelConfig:
    """Write a random model of `config`'s architecture with few of its decoder's blocks, each kind among them, and its
    tokenizer into `folder`; the settings by which it is loaded."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    architecture = causal_config(config)
    _shorten(architecture.get_text_config(), without_weights(config))
    model: Any = AutoModelForCausalLM.from_config(
        architecture, dtype=getattr(torch, config.dtype), trust_remote_code=config.trust_remote_code
    )
    draw(model)
    model.save_pretrained(folder)
    load_tokenizer(config).save_pretrained(folder)
    return config.model_copy(update={"path": str(folder), "revision": None})


@torch.no_grad()
def draw(model: nn.Module, seed: int = 0) -> None:
    """Weights by which every part counts: a matrix keeps the size of what goes through it, so that attention is far
    from even, and no bias or norm is at its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator).to(weight.dtype)
        if weight.dim() > 1:
            weight.copy_(noise / weight.shape[-1] ** 0.5)
        else:
            weight.add_(0.1 * noise)


def _shorten(architecture: Any, model: nn.Module) -> None:
    """Leave `few` of the blocks of `model`, in lists of one entry a block too."""
    found = block_list(model)
    if found is None:
        return
    blocks: Any = getattr(*found)
    whole = len(blocks)
    kept = min(whole, max(2, few(model, blocks)))  # of two, so that one can take the other's place
    for name, value in architecture.to_dict().items():
        if isinstance(value, list | tuple) and len(value) == whole:
            setattr(architecture, name, value[:kept])
    architecture.num_hidden_layers = kept
