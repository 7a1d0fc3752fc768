"""What loads as a model, and what is refused with a reason."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from model_families import save_family, some_ids

from gainrl_ray.config import Config, ModelConfig, PromptConfig
from gainrl_ray.data.prompts import PromptBuilder, RefusedPrompt
from gainrl_ray.errors import DataError, ModelError
from gainrl_ray.model.digest import model_digest
from gainrl_ray.model.loading import (
    TINY_FOLDER,
    check_model,
    check_positions,
    load_model,
    load_tokenizer,
    model_folder,
    pad_token_id,
)
from gainrl_ray.types import Problem, Prompt


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the built-in model's folder, to be spoilt."""
    return Path(shutil.copytree(TINY_FOLDER, tmp_path / "model"))


def _config(path: Path | str, **settings: Any) -> ModelConfig:
    return ModelConfig(path=str(path), dtype="float32", **settings)


def _edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_tiny_loads_in_both_dtypes(tiny_model_config: ModelConfig) -> None:
    assert model_folder(tiny_model_config) == str(TINY_FOLDER)
    model, tokenizer = load_model(tiny_model_config), check_model(tiny_model_config)
    assert model.dtype == torch.float32
    assert not model.training
    assert load_model(tiny_model_config, dtype="bfloat16").dtype == torch.bfloat16
    assert tokenizer.decode(tokenizer.encode("2 + 3 = 5")) == "2 + 3 = 5"
    assert pad_token_id(tokenizer) == tokenizer.pad_token_id


def test_the_digest_follows_config_and_weights(copied: Path) -> None:
    first = model_digest(_config(copied))
    assert first == model_digest(_config("tiny"))
    (copied / "README.md").write_text("not part of the model")
    assert model_digest(_config(copied)) == first
    weights = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    changed = model_digest(_config(copied))
    assert changed != first
    _edit(copied / "config.json", rms_norm_eps=1e-5)
    assert model_digest(_config(copied)) not in (first, changed)
    (copied / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        model_digest(_config(copied))


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_missing_folder_is_named(path: str) -> None:
    with pytest.raises(ModelError, match=f"{path}' is no folder: accepted are 'tiny'"):
        load_model(_config(path))


def test_an_unreachable_hub_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="nobody/nothing': its config does not load"):
        load_model(_config("nobody/nothing"))
    with pytest.raises(ModelError, match="nobody/nothing' is neither 'tiny', nor a folder, nor a hub model"):
        model_digest(_config("nobody/nothing"))


def test_a_folder_without_config_is_refused(copied: Path) -> None:
    (copied / "config.json").unlink()
    with pytest.raises(ModelError, match=r"is a folder without config\.json"):
        load_model(_config(copied))


def test_an_unreadable_config_is_refused(copied: Path) -> None:
    (copied / "config.json").write_text("{")
    with pytest.raises(ModelError, match="its config does not load"):
        check_model(_config(copied))


def test_broken_weights_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"these are no weights")
    with pytest.raises(ModelError, match="its weights do not load"):
        load_model(_config(copied))


def test_missing_weights_are_refused_instead_of_drawn(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of its Qwen2ForCausalLM \(model\.norm\.weight\)"):
        load_model(_config(copied))


def test_weights_of_another_shape_are_refused(copied: Path) -> None:
    _edit(copied / "config.json", vocab_size=700)
    with pytest.raises(ModelError, match="its weights do not load"):
        load_model(_config(copied))


@pytest.mark.parametrize(
    "values",
    [
        {"architectures": ["Qwen2ForSequenceClassification"]},
        {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
        {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
    ],
)
def test_anything_but_a_causal_language_model_is_refused(copied: Path, values: dict[str, Any]) -> None:
    _edit(copied / "config.json", **values)
    with pytest.raises(ModelError, match=f"no causal language model.*{values['architectures'][0]}"):
        check_model(_config(copied))


def test_sequences_longer_than_the_model_are_refused(copied: Path) -> None:
    model, prompt, rollout = {"path": str(copied)}, {"max_tokens": 60}, {"max_new_tokens": 41}
    config = Config.model_validate({"model": model, "data": {"prompt": prompt}, "rollout": rollout})
    _edit(copied / "config.json", max_position_embeddings=101)
    check_positions(config)
    _edit(copied / "config.json", max_position_embeddings=100)
    with pytest.raises(ModelError, match=r"has 100 positions; data\.prompt\.max_tokens 60 and .*41 need 101"):
        check_positions(config)
    _edit(copied / "config.json", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0})
    check_positions(config)
    _edit(copied / "config.json", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(ModelError, match=r"'dynamic', which vLLM does otherwise beyond 100 tokens; .* need 101"):
        check_positions(config)
    _edit(copied / "config.json", max_position_embeddings=101)
    check_positions(config)


def test_a_missing_tokenizer_is_refused(copied: Path) -> None:
    for file in copied.glob("*token*"):
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        check_model(_config(copied))


def test_a_tokenizer_larger_than_the_embedding_is_refused(copied: Path) -> None:
    _edit(copied / "config.json", vocab_size=100)
    with pytest.raises(ModelError, match=r"vocabulary has \d+ tokens beyond the embedding's 100 rows"):
        check_model(_config(copied))


def test_added_tokens_without_a_row_do_no_harm_outside_prompts(copied: Path) -> None:
    tokenizer = load_tokenizer(_config(copied))
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(copied)
    found = check_model(_config(copied))
    assert found.convert_tokens_to_ids(["[PAD]", "<image>"]) == [rows, rows + 1]
    assert found.pad_token_id == rows
    assert pad_token_id(found) == found.eos_token_id < rows

    builder = pickle.loads(pickle.dumps(PromptBuilder(found, PromptConfig())))
    asked = [Problem(id=text, question=text, answer="", source="") for text in ("What is 2+3?", "See <image>.")]
    good, bad = builder.build_all(asked)
    assert isinstance(good, Prompt) and max(good.token_ids) < rows
    assert bad == RefusedPrompt("token unknown to the model", "the model has no row for the token '<image>'")
    with pytest.raises(DataError, match="before the question holds '<image>', for which the model has no row"):
        PromptBuilder(found, PromptConfig(system="See <image>."))


def test_ids_without_a_token_are_a_buffer_of_the_model(copied: Path) -> None:
    assert not hasattr(load_model(_config("tiny")), "unused_ids")
    model: Any = load_model(_config("tiny"))
    rows = model.config.vocab_size
    model.resize_token_embeddings(rows + 3, mean_resizing=False)
    model.save_pretrained(copied)
    padded = load_model(_config(copied))
    assert padded.unused_ids.tolist() == [rows, rows + 1, rows + 2]
    assert "unused_ids" not in padded.state_dict()


def test_a_capped_model_gets_the_attention_that_caps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_family("Gemma 2", tmp_path)
    assert check_model(_config(folder)) is not None
    (said,) = [record.getMessage() for record in caplog.records if record.name == "gainrl_ray.model.loading"]
    assert said.endswith("eager attention, since sdpa leaves out a part of this model's (a cap on scores, or sinks)")
    capped, tokens = load_model(_config(folder)), torch.tensor([some_ids(40)])
    assert capped.config._attn_implementation == "eager"
    with torch.no_grad():
        right = capped(tokens).logits
        capped.config._attn_implementation = "sdpa"
        assert (right - capped(tokens).logits).abs().max() > 0.01, "sdpa caps too, so eager is not needed any more"
        _edit(folder / "config.json", attn_logit_softcapping=None)
        uncapped = load_model(_config(folder))
        assert uncapped.config._attn_implementation == "sdpa"
        torch.testing.assert_close(uncapped(tokens).logits, capped(tokens).logits)
    assert load_model(_config(folder, attention="eager")).config._attn_implementation == "eager"


def test_longrope_does_not_depend_on_other_rows(tmp_path: Path) -> None:
    """Its original positions are 128."""
    folder = save_family("Phi-3.5, longrope", tmp_path)
    short, long = some_ids(60), some_ids(140)

    def logits(model: Any, length: int) -> torch.Tensor:
        """Of the short row beside one of this length."""
        rows = torch.tensor([short + [0] * (length - 60), long[:length]])
        with torch.no_grad():
            return model(rows).logits[0, :60]

    moving = load_model(_config(folder))
    alone, beside = logits(moving, 60), logits(moving, 140)
    assert (alone - beside).abs().max() > 0.1, "transformers chooses once for all, so nothing needs to be fixed"
    for sequence_tokens, expected in ((128, alone), (129, beside)):
        fixed = load_model(_config(folder), sequence_tokens=sequence_tokens)
        torch.testing.assert_close(logits(fixed, 60), expected)
        torch.testing.assert_close(logits(fixed, 140), expected)


def test_code_of_a_model_runs_only_when_asked_for(copied: Path) -> None:
    (copied / "own.py").write_text("raise SystemExit('ran')")
    _edit(copied / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    with pytest.raises(ModelError, match=r"needs model\.trust_remote_code=true"):
        load_model(_config(copied))
