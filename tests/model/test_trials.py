"""What a model is found to be able to do, on few of its blocks as on all of them."""

from typing import Any

import pytest
import torch
from small_models import small_model

from gainrl_ray.model import trials
from gainrl_ray.model.prefill import decoder_blocks
from gainrl_ray.model.trials import few_blocks, head_is_plain, line_kind, trial_states
from gainrl_ray.types import LineKind

ALIKE = ["full_attention"] * 6
ONE_IN_SIX = ["sliding_attention"] * 5 + ["full_attention"]
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}


@pytest.fixture
def blocks_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many blocks each trial ran."""
    found: list[int] = []
    run = trial_states

    def counted(model: Any, kind: LineKind) -> torch.Tensor:
        found.append(len(decoder_blocks(model)))
        return run(model, kind)

    monkeypatch.setattr(trials, "trial_states", counted)
    return found


@pytest.mark.parametrize(
    ("kind", "settings", "plain", "lines"),
    [
        ("Qwen2", {}, True, LineKind.PACKS),
        ("Llama", {"tie_word_embeddings": False}, True, LineKind.PACKS),
        ("Mistral", {"sliding_window": None}, True, LineKind.PACKS),
        ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}, True, LineKind.PACKS),
        ("GPT2", {"n_embd": 32, "n_head": 4, "n_layer": 6}, True, LineKind.PACKS),
        ("Granite", {"logits_scaling": 3.0}, False, LineKind.PACKS),
        ("Cohere", {"logit_scale": 0.5}, False, LineKind.PACKS),
        ("Gemma2", {"final_logit_softcapping": 5.0, **GEMMA}, False, LineKind.ROWS),
        ("Mistral", {"sliding_window": 4}, True, LineKind.ROWS),
        ("Bloom", {"n_head": 4, "n_layer": 6}, True, LineKind.ROWS),  # positions from the mask's columns
        ("Mamba", {"state_size": 4}, True, LineKind.ROWS),  # a state that passes from row to row
    ],
)
def test_few_blocks_show_what_all_do(
    kind: str, settings: dict[str, Any], plain: bool, lines: LineKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(kind, **{"num_hidden_layers": 6, **settings})
    assert (head_is_plain(model), line_kind(model)) == (plain, lines)
    monkeypatch.setattr(trials, "block_list", lambda model: None)
    assert (head_is_plain(model), line_kind(model)) == (plain, lines)


@pytest.mark.parametrize(
    ("kind", "settings", "kept"),
    [
        ("Qwen2", {"layer_types": ALIKE}, 1),
        ("Gemma3Text", {"layer_types": ONE_IN_SIX, **GEMMA}, 6),
        ("Qwen2Moe", {"mlp_only_layers": [0, 1], "num_experts": 4, "moe_intermediate_size": 16}, 3),
        ("GPT2", {"n_embd": 32, "n_head": 4, "n_layer": 6}, 1),
        ("GPTNeo", {"num_layers": 6, "num_heads": 4, "attention_types": [[["global", "local"], 3]]}, 2),
    ],
)
def test_every_kind_of_block_is_among_the_few(kind: str, settings: dict[str, Any], kept: int) -> None:
    model = small_model(kind, **{"num_hidden_layers": 6, **settings})
    whole = list(decoder_blocks(model))
    with few_blocks(model):
        assert list(decoder_blocks(model)) == whole[:kept]
    assert list(decoder_blocks(model)) == whole


def test_a_model_that_counts_its_blocks_is_tried_out_whole(
    blocks_run: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model("Qwen2", num_hidden_layers=6)
    forward = model.base_model.forward

    def counting(**inputs: Any) -> Any:
        model.base_model.layers[model.config.num_hidden_layers - 1]
        return forward(**inputs)

    monkeypatch.setattr(model.base_model, "forward", counting)
    assert head_is_plain(model) and line_kind(model) is LineKind.PACKS
    assert blocks_run == [1, 6, 6], "rows on the first block, then all of it on all"
    assert len(model.base_model.layers) == 6


@pytest.mark.parametrize("name", ["flash_attention_2", "kernels-community/flash-attn2"])
def test_flash_attention_is_tried_out_by_another(name: str, blocks_run: list[int]) -> None:
    """Its kernels need a GPU, and models are tried out where they were loaded. transformers has many names for it."""
    model = small_model("Qwen2", num_hidden_layers=6)
    model.config._attn_implementation = name
    assert head_is_plain(model) and line_kind(model) is LineKind.END_TO_END
    assert model.config._attn_implementation == name
    assert blocks_run == [1, 1]


def test_layers_that_may_keep_rows_ends_from_the_kernel_take_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("Qwen2")
    model.config._attn_implementation = "flash_attention_2"
    monkeypatch.setattr(type(model), "_supports_attention_backend", False)
    assert line_kind(model) is LineKind.ROWS
