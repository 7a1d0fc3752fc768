"""Where vLLM and transformers are known to part, by the configs of the models."""

from typing import Any

import pytest
from transformers import Cohere2Config, LlamaConfig, Qwen2Config

from gainrl_ray.model.positions import disagreement

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}


@pytest.mark.parametrize(
    ("architecture", "agreed"),
    [
        (LlamaConfig(max_position_embeddings=64, rope_parameters=DYNAMIC), 64),
        (Cohere2Config(max_position_embeddings=640, sliding_window=32), 32),
    ],
    ids=["dynamic", "cohere2"],
)
def test_they_agree_up_to_a_length(architecture: Any, agreed: int) -> None:
    assert disagreement(architecture, agreed) is None
    assert f" {agreed} tokens" in (disagreement(architecture, agreed + 1) or "")


def test_others_agree_at_any_length() -> None:
    linear = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    for architecture in (LlamaConfig(rope_parameters=linear), Qwen2Config(sliding_window=32)):
        assert disagreement(architecture, 10**6) is None
