"""What a run's settings become for DeepSpeed: decided by the config alone."""

from typing import Any

import pytest
import torch
from tolerances import rounding

from gainrl_ray.actors.deepspeed_config import BACKENDS, deepspeed_config, learning_rate, reference_config
from gainrl_ray.config import Config, OptimizerConfig
from gainrl_ray.errors import ConfigError


def _settings(**learner: Any) -> dict[str, Any]:
    return deepspeed_config(Config.model_validate({"learner": learner}), ranks=2, parameters=10)


@pytest.mark.parametrize("found", [False, True])
def test_a_gpu_is_used_where_the_config_asks_for_one(monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    """Whatever the machine says: the run may be planned on another, and a GPU that was not asked for is not ours."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    offload = {"zero_stage": 3, "offload_optimizer": "cpu", "offload_params": "cpu"}
    for gpus, on_gpu in ((0.0, False), (0.5, True), (1.0, True)):
        zero = _settings(gpus_per_worker=gpus, **offload)["zero_optimization"]
        assert zero["overlap_comm"] is on_gpu
        assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu", "pin_memory": on_gpu}
    assert BACKENDS == {"cuda": "nccl", "cpu": "gloo"}


def test_learning_rate_warms_up_and_falls() -> None:
    cosine = OptimizerConfig(lr=2.0, schedule="cosine", warmup_updates=2, min_lr_ratio=0.1)
    found = [learning_rate(update, cosine, total_updates=5) for update in range(7)]
    assert found == pytest.approx([1.0, 2.0, 2.0, 1.1, 0.2, 0.2, 0.2])
    linear = OptimizerConfig(lr=2.0, schedule="linear")
    assert [learning_rate(update, linear, 5) for update in (0, 1, 4)] == pytest.approx([2.0, 1.5, 0.0])
    assert learning_rate(1000, OptimizerConfig(lr=2.0, warmup_updates=3), 5) == 2.0


def test_deepspeed_settings_are_merged_and_guarded() -> None:
    config = Config.model_validate({"learner": {"deepspeed": {"zero_optimization": {"overlap_comm": True}}}})
    merged = deepspeed_config(config, ranks=2, parameters=10)
    assert merged["zero_optimization"]["overlap_comm"] is True
    assert merged["zero_optimization"]["stage"] == 2
    refused = Config.model_validate({"learner": {"deepspeed": {"train_batch_size": 8}}})
    with pytest.raises(ConfigError, match=r"train_batch_size=8 cannot be set: use learner\.microbatch_tokens"):
        deepspeed_config(refused, ranks=1, parameters=10)


def test_adam_is_torchs_fused_one_unless_another_is_asked_for() -> None:
    params = _settings()["optimizer"]["params"]
    assert params["fused"] is params["torch_adam"] is True
    own = _settings(deepspeed={"optimizer": {"params": {"torch_adam": False}}})["optimizer"]["params"]
    assert "fused" not in own and not own["torch_adam"]
    assert "optimizer" not in reference_config(_settings())


def test_fused_adam_takes_the_steps_of_the_plain_one() -> None:
    torch.manual_seed(0)
    start = [torch.randn(257, 3), torch.randn(65)]
    gradients = [[torch.randn_like(weight) * 10.0**-step for weight in start] for step in range(4)]
    found = []
    for fused in (True, False):
        weights = [weight.clone().requires_grad_() for weight in start]
        optimizer = torch.optim.AdamW(weights, lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, fused=fused, foreach=None)
        for step in gradients:
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = gradient.clone()
            optimizer.step()
        found.append([weight.detach() for weight in weights])
    # A step rounds a dozen times, numbers of a weight's size (4 at most) or less; it moves a weight by 0.01.
    tolerance = rounding(12 * len(gradients), 4.0)
    for one, other, before in zip(*found, start, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)
        assert (one - before).abs().mean() > 0.01
