"""Small random models of many families, by the name of their transformers configuration, and rows for them."""

from typing import Any

import numpy as np
import torch

from gainrl_ray.types import MicroBatch

LENGTHS = (9, 6, 7)
PROMPTS = (5, 4, 4)

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


def small_model(kind: str, **settings: Any) -> Any:
    """A causal language model of the family in evaluation mode; always the same weights."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **settings})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def three_rows(slots: tuple[int, ...] = (4, -1, 2)) -> MicroBatch:
    """Rows of their own lengths padded to 9; padding is token 3, which must have no effect."""
    rng, shape = np.random.default_rng(0), (3, 9)
    token_ids, mask = np.full(shape, 3, dtype=np.int64), np.zeros(shape, dtype=bool)
    for row, (length, prompt) in enumerate(zip(LENGTHS, PROMPTS, strict=True)):
        token_ids[row, :length] = rng.integers(0, 90, length)
        mask[row, prompt:length] = True
    return MicroBatch(
        token_ids=token_ids,
        lengths=np.asarray(LENGTHS),
        response_mask=mask,
        token_weights=mask.astype(np.float32),
        advantages=np.ones(3, dtype=np.float32),
        generator_logprobs=np.zeros(shape, dtype=np.float32),
        prefix_stop=np.asarray([2, 1, 1]),
        question_stop=np.asarray([4, 3, 4]),
        slots=np.asarray(slots),
        packs=np.arange(3),
    )
