"""Liger's kernels: who may ask for them, and what is put into a model. They run on GPUs alone, and not here."""

import importlib.util
from typing import Any

import pytest

from gainrl_ray.config import LearnerConfig, ModelConfig
from gainrl_ray.errors import ConfigError
from gainrl_ray.model.liger import check_liger, fuse
from gainrl_ray.model.loading import load_model


def test_kernels_need_gpus_and_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = LearnerConfig(liger=True, gpus_per_worker=1)
    check_liger(LearnerConfig())
    check_liger(on_gpu)
    with pytest.raises(ConfigError, match=r"needs CUDA GPUs for the learner, received learner.gpus_per_worker=0"):
        check_liger(LearnerConfig(liger=True))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package liger-kernel, which is not installed"):
        check_liger(on_gpu)


def test_the_package_is_called_without_its_cross_entropy(
    tiny_model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import liger_kernel.transformers as liger

    model, calls = load_model(tiny_model_config), []
    with monkeypatch.context() as patch:
        patch.setattr(liger, "_apply_liger_kernel_to_instance", lambda **settings: calls.append(settings))
        fuse(model)
    assert calls == [{"model": model, "cross_entropy": False, "fused_linear_cross_entropy": False}]


def test_norms_and_mlps_of_the_instance_are_fused_and_its_weights_stay(
    tiny_model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from liger_kernel.transformers.rope import liger_rotary_pos_emb
    from transformers.models.qwen2 import modeling_qwen2

    for name in ("apply_rotary_pos_emb", "Qwen2RMSNorm", "Qwen2MLP"):  # put back after the test
        monkeypatch.setattr(modeling_qwen2, name, getattr(modeling_qwen2, name))
    model: Any = load_model(tiny_model_config)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    forward = model.forward
    fuse(model)
    kinds = {type(module).__name__: module._get_name() for module in model.modules()}
    assert (kinds["Qwen2RMSNorm"], kinds["Qwen2MLP"]) == ("LigerRMSNorm", "LigerSwiGLUMLP")
    assert modeling_qwen2.apply_rotary_pos_emb is liger_rotary_pos_emb
    assert model.forward == forward, "no fused cross entropy"
    assert all(weight.equal(before[name]) for name, weight in model.named_parameters())

    model.config.model_type = "mamba"
    with pytest.raises(ConfigError, match="no kernels for models of type mamba"):
        fuse(model)
