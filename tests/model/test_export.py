"""What stands beside exported weights is written before a run trains, as it was loaded."""

import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gainrl_ray.config import Config
from gainrl_ray.errors import ConfigError, ModelError
from gainrl_ray.model.export import rehearse_export, write_settings
from gainrl_ray.model.loading import TINY_FOLDER, check_model, load_model

SAMPLING = {"temperature": 0.6, "top_p": 0.9}  # without do_sample: transformers refuses to save it


def config(path: Any = "tiny", **sections: Any) -> Config:
    return Config.model_validate({"model": {"path": str(path), "dtype": "float32"}, **sections})


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the built-in model's folder, to be changed."""
    return Path(shutil.copytree(TINY_FOLDER, tmp_path / "model"))


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 2,000 bytes, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_generation_config_is_written_as_it_was_loaded(copied: Path, tmp_path: Path) -> None:
    given = json.loads((copied / "generation_config.json").read_text()) | SAMPLING | {"eos_token_id": [596, 285]}
    (copied / "generation_config.json").write_text(json.dumps(given))
    model = load_model(config(copied).model)
    with pytest.raises(ValueError, match="is invalid"):
        model.generation_config.save_pretrained(tmp_path)
    rehearse_export(config(copied))
    write_settings(model, check_model(config(copied).model), tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert {key: written[key] for key in given} == given
    shutil.copy(copied / "model.safetensors", tmp_path)
    again = load_model(config(tmp_path).model)
    assert again.generation_config.eos_token_id == [596, 285]


def test_sizes_are_those_of_the_weights() -> None:
    model = load_model(config().model)
    weights = sum(weight.numel() for weight in model.parameters())
    sizes = rehearse_export(config())
    assert (sizes.export, sizes.checkpoint) == (4 * weights, 12 * weights)
    half = rehearse_export(Config.model_validate({"model": {"dtype": "bfloat16"}}))
    assert (half.export, half.checkpoint) == (2 * weights, 14 * weights)
    text = model.config
    # A [2, in] and B [out, 2] of two layers in every block; queries are as wide as the model.
    factors = text.num_hidden_layers * 2 * (2 * text.hidden_size + text.hidden_size + text.intermediate_size)
    lora = {"rank": 2, "targets": ["q_proj", "up_proj"]}
    both, alone = rehearse_export(config(lora=lora)), rehearse_export(config(lora={**lora, "export": "adapter"}))
    assert (both.export, both.checkpoint) == (4 * (weights + factors), 12 * factors)
    assert (alone.export, alone.checkpoint) == (4 * factors, 12 * factors)


def test_what_cannot_be_exported_is_refused(copied: Path) -> None:
    with pytest.raises(ConfigError, match="nothing_proj names no linear layer"):
        rehearse_export(config(lora={"rank": 2, "targets": ["nothing_proj"]}))
    (copied / "generation_config.json").write_text(json.dumps({"early_stopping": "sometimes"}))
    with pytest.raises(ModelError, match=r"could not be exported \(ValueError: .*early_stopping.*generation_config"):
        rehearse_export(config(copied))


def test_a_full_temporary_folder_is_named(small_files: None) -> None:
    with pytest.raises(ModelError, match=r"could not be exported \(.*File too large.*or make room in /"):
        rehearse_export(config())
