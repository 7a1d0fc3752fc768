"""Rotary positions that depend on the longest row of a batch, made to depend on nothing."""

from typing import Any


def fix_rope_factors(model: Any, sequence_tokens: int) -> None:
    """Nothing; gives a longrope model (Phi-3.5) the factors that vLLM takes for sequences up to `sequence_tokens`.

    Beyond its original positions such a model has other factors. transformers chooses anew in every forward pass, by
    the batch's longest row; vLLM once for all, by the longest sequence that may come. What generated is what counts.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for module in model.modules():
        if getattr(module, "rope_type", None) == "longrope":
            factors, module.attention_scaling = ROPE_INIT_FUNCTIONS["longrope"](
                module.config, module.inv_freq.device, seq_len=sequence_tokens
            )
            module.register_buffer("inv_freq", factors, persistent=False)
            module.rope_type = "chosen"  # no type by which the forward pass would choose again


def disagreement(architecture: Any, tokens: int) -> str | None:
    """What makes vLLM and transformers disagree on sequences of so many tokens, said of the model; None for nothing.

    architecture: the transformers config of the language model.
    """
    parameters = getattr(architecture, "rope_parameters", None) or {}
    is_dynamic = "dynamic" in str(parameters.get("rope_type", ""))
    if is_dynamic and tokens > (positions := architecture.max_position_embeddings):
        return f"stretches its positions by 'dynamic', which vLLM does otherwise beyond {positions} tokens"
    if architecture.model_type == "cohere2" and tokens > architecture.sliding_window:
        return f"has windows of a token more in vLLM, which shows beyond {architecture.sliding_window} tokens"
    return None
