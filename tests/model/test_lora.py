"""Adapters leave the model's function alone at first, merge exactly as peft merges, and can be switched off."""

import importlib.util
from typing import Any

import pytest
import torch
from tolerances import assert_equal_but_for_rounding, roundings_in
from torch import nn

from gainrl_ray.config import Config, LoraConfig, ModelConfig
from gainrl_ray.errors import ConfigError
from gainrl_ray.model.loading import load_model
from gainrl_ray.model.lora import (
    WithoutAdapters,
    adapter_sources,
    add_adapters,
    check_peft,
    load_trained,
    merged_sources,
)
from gainrl_ray.model.prefill import signal_module
from gainrl_ray.model.trials import head_is_plain, line_kind
from gainrl_ray.types import LineKind

TOKENS = torch.arange(5, 17).unsqueeze(0)
LORA = LoraConfig(rank=3, alpha=6.0)


def gpt2() -> Any:
    """A random GPT-2: its linear layers hold their weights transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2)).eval()


def tiny() -> Any:
    return load_model(ModelConfig(path="tiny", dtype="float32"))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def train(model: Any) -> None:
    """Factors as training might leave them."""
    generator = torch.Generator().manual_seed(1)
    for source in adapter_sources(model):
        source.weight.data = 0.1 * torch.randn(source.weight.shape, generator=generator)


@pytest.mark.parametrize("make", [tiny, gpt2])
def test_merged_weights_are_those_that_peft_merges(make: Any) -> None:
    model = make()
    before = {source.name: source.value().clone() for source in merged_sources(model)}
    untouched = logits(model)
    add_adapters(model, LORA, seed=0)
    assert torch.equal(logits(model), untouched), "the second factors are 0"
    train(model)
    merged = {source.name: source.value() for source in merged_sources(model)}
    assert merged.keys() == before.keys() == {name for name, _ in make().named_parameters()}
    adapted = logits(model)
    assert (adapted - untouched).abs().max() > 0.1
    plain = make()
    plain.load_state_dict(merged, strict=False)
    assert_equal_but_for_rounding(logits(plain), adapted, roundings_in(plain))
    for layer in [module for module in model.modules() if hasattr(module, "lora_A")]:
        layer.merge()
    by_peft = {source.name: source.weight for source in merged_sources(model)}
    for name, weight in merged.items():
        assert_equal_but_for_rounding(weight, by_peft[name], LORA.rank + 2)  # and the scale, and the weight


def test_adapters_are_drawn_from_the_seed_alone() -> None:
    def factors(seed: int) -> list[torch.Tensor]:
        torch.rand(3)  # the state of the global generator does not matter
        run = {"seed": seed}
        model = load_trained(Config.model_validate({"model": {"dtype": "float32"}, "lora": LORA, "run": run}))
        return [source.weight.detach() for source in adapter_sources(model)]

    first, again, other = factors(4), factors(4), factors(5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first[::2], other[::2], strict=True))
    model, before = tiny(), torch.get_rng_state()
    add_adapters(model, LORA, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(factor.numel() for factor in first) == 3 * 4 * (2 * 256 + 2 * (128 + 64) + 3 * (128 + 512))


def test_a_model_with_adapters_is_still_a_transformers_model() -> None:
    model, plain = tiny(), tiny()
    add_adapters(model, LORA, seed=0)
    train(model)
    assert head_is_plain(model) and line_kind(model) is LineKind.PACKS
    assert type(signal_module(model)) is type(signal_module(plain))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name for name in trained)


def test_without_its_adapters_a_model_is_its_own_reference() -> None:
    model = tiny()
    add_adapters(model, LORA, seed=0)
    train(model)
    adapted = logits(model)
    reference = WithoutAdapters(model, model)
    with torch.no_grad():
        assert torch.equal(reference(TOKENS).logits, logits(tiny()))
    assert torch.equal(logits(model), adapted)
    assert all(source.weight.requires_grad for source in adapter_sources(model))
    with pytest.raises(TypeError):
        reference(no_such_input=1, input_ids="nothing")
    assert torch.equal(logits(model), adapted), "an error leaves the adapters on"


def test_a_merged_weight_is_rounded_once() -> None:
    """In bfloat16 the sum is taken in float32: 2**-20 decides where 1 + 2**-8, midway between two numbers, goes."""
    layer = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    model = tiny()
    add_adapters(model, LoraConfig(rank=1, alpha=1.0), seed=0)
    source = next(source for source in merged_sources(model) if source.factors)
    down, up = torch.ones(2, 1).bfloat16(), torch.tensor([[2.0**-8, 2.0**-20]]).bfloat16()
    layer.weight.data = torch.tensor([[1.0]]).bfloat16()
    value = type(source)("w", layer.weight, (down, up), 1.0).value()
    assert value.dtype == torch.bfloat16 and value.item() == 1.0078125


@pytest.mark.parametrize("targets", [("q_proj", "no_proj"), ("lm_head",), ("embed_tokens",)])
def test_targets_that_are_no_linear_layers_are_refused(targets: tuple[str, ...]) -> None:
    with pytest.raises(
        ConfigError, match=rf"lora.targets: {targets[-1]} names no linear layer .* down_proj, gate_proj"
    ):
        add_adapters(tiny(), LoraConfig(rank=2, targets=targets), seed=0)


def test_only_the_targets_get_an_adapter() -> None:
    model = tiny()
    add_adapters(model, LoraConfig(rank=2, targets=("v_proj",)), seed=0)
    assert {source.name.split(".")[-3] for source in adapter_sources(model)} == {"v_proj"}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_peft(LoraConfig())
    with pytest.raises(ConfigError, match=r"lora.rank=3 needs the package peft.*gainrl-ray\[lora\]"):
        check_peft(LORA)


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"lora": {"rank": 513, "sync": "adapter"}}, r"lora.rank of at most 512, vLLM's limit, received 513"),
        (
            {
                "lora": {"rank": 8, "sync": "adapter"},
                "model": {"dtype": "float32"},
                "rollout": {"gpus_per_engine": 1},
            },
            r"needs model.dtype=bfloat16, received float32",
        ),
    ],
)
def test_what_engines_cannot_apply_is_refused(sections: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Config.model_validate(sections)
    Config.model_validate({**sections, "lora": {"rank": 513, "sync": "merged"}})


@pytest.mark.parametrize(
    ("lora", "parts"),
    [
        (LoraConfig(export="adapter"), ("model",)),
        (LoraConfig(rank=2), ("model", "adapter")),
        (LoraConfig(rank=2, export="merged"), ("model",)),
        (LoraConfig(rank=2, export="adapter"), ("adapter",)),
    ],
)
def test_what_a_folder_holds(lora: LoraConfig, parts: tuple[str, ...]) -> None:
    assert lora.export_parts == parts
