"""A GGUF file of the Llama family as a plain Hugging Face folder.

Read with what transformers has for its own GGUF models, among which Llama is not: for Llama it takes a slower way, by
two more packages, to a model that cannot be saved as it is.
"""

from pathlib import Path
from typing import Any

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""A module's name in the file -> its name in LlamaForCausalLM, both without the layer."""


def convert(file: Path, folder: Path) -> None:
    """Write the file's LlamaForCausalLM into `folder`: float32 weights, config without quantisation, tokenizer.

    Raises ValueError or KeyError for a file of another format or family.
    """
    from safetensors.torch import save_file
    from transformers.integrations.gguf.reader import read_gguf_metadata

    metadata, names = read_gguf_metadata(str(file))
    folder.mkdir(parents=True)
    config = _config(metadata, tied="output.weight" not in names)
    save_file(_weights(file, config), folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    _tokenizer(file, metadata["llama.context_length"]).save_pretrained(folder)


def _config(metadata: dict[str, Any], *, tied: bool) -> Any:
    """The LlamaConfig that the file's metadata describes."""
    from transformers import LlamaConfig

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=metadata["llama.vocab_size"],
        hidden_size=metadata["llama.embedding_length"],
        intermediate_size=metadata["llama.feed_forward_length"],
        num_hidden_layers=metadata["llama.block_count"],
        num_attention_heads=metadata["llama.attention.head_count"],
        num_key_value_heads=metadata["llama.attention.head_count_kv"],
        max_position_embeddings=metadata["llama.context_length"],
        rms_norm_eps=metadata["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": metadata["llama.rope.freq_base"]},
        tie_word_embeddings=tied,
        bos_token_id=metadata["tokenizer.ggml.bos_token_id"],
        eos_token_id=metadata["tokenizer.ggml.eos_token_id"],
        pad_token_id=metadata["tokenizer.ggml.padding_token_id"],
    )


def _weights(file: Path, config: Any) -> dict[str, Any]:
    """Name in LlamaForCausalLM -> float32 tensor of every tensor of the file."""
    import torch
    from transformers.integrations.gguf.dequant import GGML_BLOCK, dequantize
    from transformers.integrations.gguf.reader import GgufHeader, load_gguf_state_dict

    header = GgufHeader.from_file(str(file))
    lazy = load_gguf_state_dict(header)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in header.tensors:
        values = lazy[tensor.name][...]
        if tensor.ggml_type in GGML_BLOCK:
            values = dequantize(values.reshape(-1), tensor.ggml_type)
        values = values.to(torch.float32).reshape(tensor.shape)
        *layer, module, kind = tensor.name.split(".")
        if module in heads:
            values = _rotating_halves(values, heads[module])
        prefix = f"model.layers.{layer[1]}." if layer else ""
        weights[f"{prefix}{_NAMES[module]}.{kind}"] = values.contiguous()
    return weights


def _rotating_halves(rows: Any, heads: int) -> Any:
    """Rows of a query or key projection, [heads * head_size, hidden], in the order of transformers.

    The file has a head's rotated pairs side by side, (0, 1), (2, 3); transformers pairs a row of the first half with
    one of the second.
    """
    return rows.reshape(heads, -1, 2, rows.shape[-1]).transpose(1, 2).reshape(rows.shape)


def _tokenizer(file: Path, positions: int) -> Any:
    """The file's byte-level tokenizer with its special tokens and chat template."""
    from tokenizers import pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer

    architecture, values, settings = get_gguf_tokenizer(str(file))
    tokenizer, _ = convert_gguf_tokenizer(architecture, values)
    if values.get("pre_tokenizer_type") == "smollm":  # not among those that transformers knows by name
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=positions, **settings)
