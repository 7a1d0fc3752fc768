"""A GGUF file becomes the plain model that its bytes mean."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf
from safetensors.numpy import load_file

from gainrl_ray.config import ModelConfig
from gainrl_ray.model.gguf import convert
from gainrl_ray.model.loading import check_model, load_model

PLACES = {
    "attn_norm": "input_layernorm",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@pytest.fixture(scope="module")
def written() -> dict[str, tiny_gguf.Tensor]:
    """The tensors of the file."""
    return tiny_gguf.tensors(np.random.default_rng(3))


@pytest.fixture(scope="module")
def folder(written: dict[str, tiny_gguf.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted file."""
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    tiny_gguf.write(file, written)
    convert(file, file.parent / "model")
    return file.parent / "model"


def test_the_weights_are_those_of_the_file(written: dict[str, tiny_gguf.Tensor], folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    assert len(weights) == len(written)
    values = {name: tensor.values for name, tensor in written.items()}
    np.testing.assert_array_equal(weights["model.embed_tokens.weight"], values["token_embd.weight"])
    np.testing.assert_array_equal(weights["model.norm.weight"], values["output_norm.weight"])
    for layer in range(tiny_gguf.LAYERS):
        for theirs, ours in PLACES.items():
            converted = weights[f"model.layers.{layer}.{ours}.weight"]
            np.testing.assert_array_equal(converted, values[f"blk.{layer}.{theirs}.weight"])


@pytest.mark.parametrize(("module", "heads"), [("q", tiny_gguf.HEADS), ("k", tiny_gguf.KEY_VALUE_HEADS)])
def test_rotated_pairs_move_to_the_two_halves_of_a_head(
    written: dict[str, tiny_gguf.Tensor], folder: Path, module: str, heads: int
) -> None:
    size = tiny_gguf.HEAD_SIZE
    converted = load_file(folder / "model.safetensors")[f"model.layers.1.self_attn.{module}_proj.weight"]
    of_file = written[f"blk.1.attn_{module}.weight"].values
    for head in range(heads):
        for pair in range(size // 2):
            first = head * size
            np.testing.assert_array_equal(converted[first + pair], of_file[first + 2 * pair])
            np.testing.assert_array_equal(converted[first + size // 2 + pair], of_file[first + 2 * pair + 1])


def test_the_config_carries_no_quantisation(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    wanted = {
        "architectures": ["LlamaForCausalLM"],
        "dtype": "float32",
        "hidden_size": tiny_gguf.HIDDEN,
        "intermediate_size": tiny_gguf.INTERMEDIATE,
        "num_hidden_layers": tiny_gguf.LAYERS,
        "num_attention_heads": tiny_gguf.HEADS,
        "num_key_value_heads": tiny_gguf.KEY_VALUE_HEADS,
        "head_dim": tiny_gguf.HEAD_SIZE,
        "max_position_embeddings": 256,
        "rms_norm_eps": 2.0**-16,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    assert {key: config[key] for key in wanted} == wanted
    assert config["rope_parameters"]["rope_theta"] == 1e4


def test_it_loads_and_saves_as_any_other_model(folder: Path, tmp_path: Path) -> None:
    config = ModelConfig(path=str(folder), dtype="float32")
    check_model(config)
    model = load_model(config)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()


def test_the_tokenizer_splits_digits_from_each_other_and_from_spaces(folder: Path) -> None:
    tokenizer = check_model(ModelConfig(path=str(folder)))
    # "12" is a token of the vocabulary, which no text comes to; the run of two line ends stays whole before a digit.
    assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]
    assert tokenizer.tokenize("a  1") == ["a", "ĠĠ", "1"]
    text = "it's 3 + 4 = 7 \n\n é 日本 <|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("a<|im_end|>")[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id == 2
    chat = tokenizer.apply_chat_template([{"content": "a"}], tokenize=False)
    assert chat == "<|im_start|>a<|im_end|>"
    assert tokenizer.model_max_length == 256
