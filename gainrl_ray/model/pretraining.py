"""The start model's parts: tokenizer texts, architecture, folder."""

from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from gainrl_ray.config import PromptConfig
from gainrl_ray.data.arithmetic import generate
from gainrl_ray.model.tiny_tokenizer import END_OF_TEXT, MESSAGE_END, train_tokenizer

CONTEXT = 2048


def build_tokenizer(seed: int) -> PreTrainedTokenizerBase:
    """The tokenizer, trained on 3,000 problems and, as often as its words need, on the default prompt."""
    config = PromptConfig()
    prompt = "\n".join(
        ["system", str(config.system), "user", str(config.example_question), "assistant", str(config.example_answer)]
    )
    texts = [f"{problem.question}\n{problem.solution}" for problem in generate("train", 3000, seed=seed)]
    return train_tokenizer([*texts, *[prompt] * 300], CONTEXT)


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A Qwen2 of about one million parameters with random weights, float32, tied embeddings."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),  # pyright: ignore[reportArgumentType]
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(MESSAGE_END),
        pad_token_id=tokenizer.convert_tokens_to_ids(END_OF_TEXT),
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    return model


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes the Hugging Face folder that transformers and vLLM load."""
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
