"""Parameters of models, against the real built-in model and counts made by hand."""

import json

import pytest

from gainrl_ray.config import ModelConfig
from gainrl_ray.errors import ModelError
from gainrl_ray.model.loading import TINY_FOLDER
from gainrl_ray.planning.shape import model_shape, shape_from_json


def test_the_tiny_model_has_the_weights_of_its_file() -> None:
    from safetensors import safe_open

    with safe_open(TINY_FOLDER / "model.safetensors", framework="np") as file:
        sizes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    count = sum(size[0] * (size[1] if len(size) > 1 else 1) for size in sizes)
    assert model_shape(ModelConfig(path="tiny")).parameters == count == 1_061_632


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # a layer: 3584 * (2 * 3584 + 2 * 512) + 3584 + 1024 + 3 * 3584 * 18944 + 2 * 3584 = 233,057,792;
        # 28 of them, 3584 of the last norm, 2 embeddings of 152064 * 3584
        ("Qwen/Qwen2.5-Math-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
        # 24 layers of 14,912,384, 896, and one embedding of 151936 * 896: 494,032,768 as published
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-Math-1.5B", 1_543_714_304),
        ("meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824),
    ],
)
def test_hub_models_have_their_published_counts(name: str, count: int) -> None:
    assert model_shape(ModelConfig(path=name)).parameters == count


def test_a_named_model_is_planned_without_fetching_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GAINRL_CACHE_DIR", str(tmp_path))
    # 30 layers of 576 * (2 * 576 + 2 * 192) + 3 * 576 * 1536 + 2 * 576 = 3,540,096, 576, one embedding of 49152 * 576
    assert model_shape(ModelConfig(path="smollm2-135m")).parameters == 134_515_008
    assert not list(tmp_path.iterdir())


def test_biases_and_head_norms_are_counted() -> None:
    sizes = {
        **{"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"num_key_value_heads": 1, "vocab_size": 10, "tie_word_embeddings": True},
    }
    # attention 8*(2*8 + 2*4) = 192, feed-forward 3*8*16 = 384, norms 3*8 = 24, embedding 80
    assert shape_from_json(sizes | {"model_type": "llama"}).parameters == 680
    assert shape_from_json(sizes | {"model_type": "qwen2"}).parameters == 680 + 16  # biases of q 8, k 4, v 4
    assert shape_from_json(sizes | {"model_type": "llama", "attention_bias": True}).parameters == 680 + 16 + 8
    assert shape_from_json(sizes | {"model_type": "qwen3"}).parameters == 680 + 8  # norms of two heads of 4


def test_what_is_not_known_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"some/model.*config\.json"):
        model_shape(ModelConfig(path="some/model"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ModelError, match=r"'mamba'.*qwen2"):
        model_shape(ModelConfig(path=str(tmp_path)))
