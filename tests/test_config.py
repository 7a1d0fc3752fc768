"""The tree of settings: every shipped YAML loads, the papers' values stand, every field is explained."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gainrl_ray.actors.resources import budget, scoring_share, shortage
from gainrl_ray.cli import load_config
from gainrl_ray.config import Config, LearnerConfig, LossConfig, ModelConfig, OptimizerConfig, RunConfig
from gainrl_ray.config_curricula import GainConfig
from gainrl_ray.config_fields import accepted, all_fields, nearest_key, sections
from gainrl_ray.config_groups import ReplayConfig, SpeedConfig

PRESETS = Path(__file__).parents[1] / "jobs" / "configs"
SHIPPED = sorted(str(file.relative_to(PRESETS).with_suffix("")) for file in PRESETS.rglob("*.yaml"))
PAPER = [
    # preset, model, problems per step, updates, prompt, response, temperature, kl
    ("qwen2.5-0.5b-gsm8k", "Qwen/Qwen2.5-0.5B-Instruct", 256, 1, 512, 512, 1.0, 0.001),
    ("qwen2.5-0.5b-math", "Qwen/Qwen2.5-0.5B-Instruct", 256, 1, 512, 512, 0.9, 0.005),
    ("qwen2.5-math-1.5b-deepscaler", "Qwen/Qwen2.5-Math-1.5B", 1024, 4, 1024, 3000, 1.0, 0.001),
    ("qwen2.5-math-7b-deepscaler", "Qwen/Qwen2.5-Math-7B-Instruct", 1024, 4, 1024, 3072, 1.0, 0.001),
    ("llama3.2-3b-deepscaler", "meta-llama/Llama-3.2-3B-Instruct", 1024, 4, 1024, 3000, 1.0, 0.001),
]  # fmt: skip
KEEP: Any = {"uninformative": "keep"}
LOSSES = {
    "grpo": LossConfig(clip_low=0.2, clip_high=0.2, kl_coef=0.04, normalisation="sequence", **KEEP),
    "dr_grpo": LossConfig(
        advantage_std=False, clip_low=0.2, clip_high=0.2, kl_coef=0.0, normalisation="constant", **KEEP
    ),
    "dapo": LossConfig(clip_low=0.2, clip_high=0.28, kl_coef=0.0, normalisation="token", truncated="mask"),
    "gspo": LossConfig(clip_low=3e-4, clip_high=4e-4, kl_coef=0.0, normalisation="sequence", ratio="sequence", **KEEP),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_yaml_loads(name: str) -> None:
    assert isinstance(load_config(["--config", name], presets=PRESETS), Config)


def test_the_papers_settings_are_shipped() -> None:
    names = {"demo", *(row[0] for row in PAPER), *(f"loss/{name}" for name in LOSSES)}
    assert names <= set(SHIPPED)


@pytest.mark.parametrize(("name", "model", "problems", "updates", "prompt", "response", "temperature", "kl"), PAPER)
def test_the_papers_values(name, model, problems, updates, prompt, response, temperature, kl) -> None:
    config = load_config(["--config", name], presets=PRESETS)
    assert config.model.path == model
    assert (config.rollout.problems_per_step, config.rollout.group_size) == (problems, 8)
    assert (config.learner.updates_per_step, config.data.prompt.max_tokens) == (updates, prompt)
    assert (config.rollout.max_new_tokens, config.rollout.temperature) == (response, temperature)
    assert (config.loss.kl_coef, config.optimizer.lr, config.optimizer.schedule) == (kl, 1e-6, "constant")
    assert config.loss.uninformative == "keep", "as verl does, by which the paper trains"
    assert (config.run.steps, config.checkpoint.every, config.evaluation.every) == (200, 20, 5)
    assert config.curriculum == GainConfig(sigma=1000, mu_step_scale=1024)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_fragment_changes_the_loss_alone(name: str) -> None:
    config = load_config(["--config", "demo", "--config", f"loss/{name}"], presets=PRESETS)
    assert config.loss == LOSSES[name]
    assert config.model_copy(update={"loss": LossConfig()}) == load_config([], presets=PRESETS).model_copy(
        update={"loss": LossConfig()}
    )


@pytest.mark.parametrize("name", ["qwen2.5-0.5b-gsm8k", "qwen2.5-math-1.5b-deepscaler"])
def test_a_preset_fits_one_gpu(name: str) -> None:
    config = load_config(["--config", name, "--config", "one-gpu"], presets=PRESETS)
    assert shortage(budget(config), {"CPU": 8.0, "GPU": 1.0}) is None
    assert shortage((scoring_share(config),), {"CPU": 8.0, "GPU": 1.0}) is None
    assert config.rollout.colocated
    alone = load_config(["--config", name], presets=PRESETS)
    assert (config.curriculum, config.loss, config.rollout.group_size) == (
        alone.curriculum,
        alone.loss,
        alone.rollout.group_size,
    )


def test_the_demo_needs_no_gpu_and_no_network() -> None:
    config = load_config([], presets=PRESETS)
    assert (config.model.path, config.model.dtype) == ("tiny", "float32")
    assert (config.data.train.path, config.data.heldout.path) == ("arithmetic", "arithmetic")
    assert config.learner.gpus_per_worker == config.rollout.gpus_per_engine == config.scoring.gpus_per_actor == 0


def test_every_field_says_what_it_means_and_takes() -> None:
    unexplained = [field.key for field in all_fields() if len(field.meaning) < 8 or not field.accepted]
    assert unexplained == []
    assert [s.key for s in sections() if not all(model.__doc__ for model in s.variants.values())] == []


def test_fields_are_walked_once() -> None:
    keys = [field.key for field in all_fields()]
    assert len(keys) == len(set(keys))
    assert {"run.steps", "data.prompt.system", "data.heldout.limit", "curriculum.sigma", "curriculum.descending"} < set(
        keys
    )


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (RunConfig.model_fields["steps"].annotation, "integer"),
        (str | None, "text or null"),
        (dict[str, int], "mapping"),
        (tuple[str, ...], "list, each: text"),
        (bool, "true | false"),
    ],
)
def test_accepted_values_in_words(annotation: object, words: str) -> None:
    assert accepted(annotation) == words


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("run.stpes", "run.steps"),
        ("clip_low", "loss.clip_low"),
        ("evaluation.temprature", "evaluation.temperature"),
        ("model.lr", "optimizer.lr"),
        ("rollout.qqq", None),
    ],
)
def test_nearest_key(key: str, near: str | None) -> None:
    assert nearest_key(key) == near


def test_sections_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        RunConfig().steps = 5  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError):
        RunConfig(stesp=5)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValidationError):
        OptimizerConfig(lr=float("inf"))


def test_flash_attention_is_of_gpus_and_16_bits() -> None:
    config = ModelConfig(attention="flash_attention_2")
    assert (config.on_cpu.attention, config.on_cpu.dtype) == ("sdpa", "bfloat16")
    assert ModelConfig(attention="eager").on_cpu.attention == "eager"
    with pytest.raises(ValidationError, match=r"needs model.dtype=bfloat16, received float32"):
        ModelConfig(attention="flash_attention_2", dtype="float32")


def test_cross_field_checks() -> None:
    with pytest.raises(ValidationError, match="zero_stage=3"):
        Config(learner=LearnerConfig(zero_stage=2, offload_params="cpu"))
    with pytest.raises(ValidationError, match="each update needs a group"):
        Config(learner=LearnerConfig(updates_per_step=64))
    with pytest.raises(ValidationError, match=r"group_policy.screen 8 must be below rollout.group_size 8"):
        Config(group_policy=SpeedConfig(screen=8))
    with pytest.raises(ValidationError, match=r"replay.fraction needs loss.importance_cap, received null"):
        Config(replay=ReplayConfig(fraction=0.5), loss=LossConfig(importance_cap=None))
