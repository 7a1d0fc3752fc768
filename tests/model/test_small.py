"""Small random models of an architecture: which blocks they keep, and that their weights are no neutral ones."""

from pathlib import Path

import pytest
import torch
from model_families import save_family

from gainrl_ray.config import ModelConfig
from gainrl_ray.data.vocabulary import UNUSED_IDS
from gainrl_ray.model.loading import load_model
from gainrl_ray.model.small import save_small

SIX = {"num_hidden_layers": 6}
ALTERNATING = ["full_attention", "full_attention", "full_attention", "sliding_attention", "full_attention"]


def of(name: str, folder: Path, **settings: object) -> ModelConfig:
    whole = save_family(name, folder / "whole", **settings)
    return save_small(ModelConfig(path=str(whole), dtype="float32"), folder / "small")


@pytest.mark.parametrize(
    ("name", "settings", "blocks"),
    [
        ("Llama", SIX, 2),
        ("Llama", {"num_hidden_layers": 1}, 1),
        ("GPT-2", {"n_layer": 6}, 2),
        ("Gemma 3", {"num_hidden_layers": 5, "layer_types": ALTERNATING}, 4),  # the first of the other kind
        ("Qwen2-MoE", {**SIX, "mlp_only_layers": [0, 1]}, 3),  # dense ones before those of experts
    ],
)
def test_each_kind_of_block_is_kept(name: str, settings: dict[str, object], blocks: int, tmp_path: Path) -> None:
    small = of(name, tmp_path, **settings)
    model = load_model(small)
    config = model.config.get_text_config()
    assert config.num_hidden_layers == blocks
    if "layer_types" in settings:
        assert config.layer_types == ALTERNATING[:blocks]
    whole = load_model(ModelConfig(path=str(tmp_path / "whole"), dtype="float32"))
    kinds = {type(module) for module in whole.modules()}
    assert {type(module) for module in model.modules()} == kinds
    assert config.hidden_size == whole.config.hidden_size


def test_every_part_counts(tmp_path: Path) -> None:
    """A part at its neutral value could be left out, and nothing would show it."""
    small = of("Qwen2.5", tmp_path, **SIX)
    model = load_model(small)
    assert getattr(model, UNUSED_IDS).numel() > 0, "its tokenizer is the whole model's"
    ids = torch.arange(3, 40).unsqueeze(0)
    with torch.no_grad():
        before = model(ids).logits
        for name, weight in model.named_parameters():
            kept, neutral = weight.clone(), 1.0 if "norm" in name else 0.0
            weight.fill_(neutral)
            assert (model(ids).logits - before).abs().max() > 1e-3 * before.abs().max(), name
            weight.copy_(kept)
