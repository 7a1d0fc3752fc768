"""Models of known shapes with random weights: what a speed depends on, without a download."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a Qwen2 model."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool


SHAPES = {
    "0.5b": Shape(layers=24, hidden=896, intermediate=4864, heads=14, key_value_heads=2, vocabulary=151_936, tied=True),
    "1.5b": Shape(
        layers=28, hidden=1536, intermediate=8960, heads=12, key_value_heads=2, vocabulary=151_936, tied=True
    ),
    "7b": Shape(
        layers=28, hidden=3584, intermediate=18_944, heads=28, key_value_heads=4, vocabulary=152_064, tied=False
    ),
    "smallest": Shape(layers=1, hidden=32, intermediate=64, heads=2, key_value_heads=1, vocabulary=1024, tied=True),
    "small": Shape(layers=2, hidden=64, intermediate=128, heads=4, key_value_heads=2, vocabulary=512, tied=True),
}
"""Those of Qwen2.5 (arXiv 2412.15115, table 1 and the published configs), and two for tests and pipelines."""


def random_model(name: str, *, dtype: str, device: str) -> Any:
    """A Qwen2 causal language model of SHAPES[name] in evaluation mode; always the same weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = SHAPES[name]
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        tie_word_embeddings=shape.tied,
        dtype=getattr(torch, dtype),
    )
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2ForCausalLM._from_config(config, dtype=getattr(torch, dtype)).eval()
