"""Memory against sums made by hand for a model of 1000 weights on 4 ranks."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gainrl_ray.cli import load_config
from gainrl_ray.config import Config
from gainrl_ray.model.shapes import SHAPES, random_model
from gainrl_ray.planning.cluster import GIB, USABLE, Cluster, device_named
from gainrl_ray.planning.memory import Memory, activation_bytes, engine_memory, learner_memory
from gainrl_ray.planning.prediction import shortages
from gainrl_ray.planning.shape import ModelShape, model_shape

SHAPE = cast(
    ModelShape,
    SimpleNamespace(parameters=1000, layers=2, hidden=4, intermediate=8, heads=2, head_size=2, vocabulary=10),
)
SEVEN = ModelShape(
    layers=28,
    hidden=3584,
    intermediate=18944,
    heads=28,
    key_value_heads=4,
    head_size=128,
    vocabulary=152_064,
    tied=False,
    qkv_bias=True,
)


def configured(**settings: Any) -> Config:
    tree: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = key.partition("__")
        tree.setdefault(section, {})[name] = value
    return Config.model_validate(tree)


def plan(stage: int, dtype: str, **learner: Any) -> Memory:
    config = configured(
        learner__zero_stage=stage, model__dtype=dtype, **{f"learner__{k}": v for k, v in learner.items()}
    )
    return learner_memory(SHAPE, config, ranks=4, on_gpu=False)


@pytest.mark.parametrize(
    ("stage", "dtype", "held", "gradients", "stepping"),
    [
        # bfloat16: weights 2, gradients 2, float32 copy 4 and moments 8; in the step the gradient in one piece 4
        (0, "bfloat16", {"parameters": 2000, "optimizer": 12_000}, 2000, 2000 + 4000),
        (1, "bfloat16", {"parameters": 2000, "gradient sum": 4000, "optimizer": 3000}, 2000, 2000),
        (2, "bfloat16", {"parameters": 2000, "optimizer": 3000}, 1000, 1000),
        (3, "bfloat16", {"parameters": 500, "gradient sum": 1000, "optimizer": 3000, "buckets": 2000}, 0, 1000),
        # float32: without ZeRO the weights are updated in place
        (0, "float32", {"parameters": 4000, "optimizer": 8000}, 4000, 4000),
        (1, "float32", {"parameters": 4000, "optimizer": 3000}, 4000, 4000 + 1000),
        (2, "float32", {"parameters": 4000, "optimizer": 3000}, 2000, 2000 + 1000),
        (3, "float32", {"parameters": 1000, "gradient sum": 1000, "optimizer": 3000, "buckets": 4000}, 0, 1000),
    ],
)
def test_states_of_each_stage(stage: int, dtype: str, held: dict[str, float], gradients: int, stepping: int) -> None:
    memory = plan(stage, dtype)
    assert memory.held == held
    assert memory.training.get("gradients", 0) == gradients
    assert sum(memory.stepping.values()) == stepping
    assert memory.host == 0
    assert memory.peak == sum(held.values()) + max(stepping, sum(memory.training.values()))


def test_offload_moves_states_to_the_host() -> None:
    memory = plan(3, "bfloat16", offload_optimizer="cpu", offload_params="cpu")
    assert (memory.held, memory.stepping) == ({"buckets": 2000}, {})
    assert memory.host == 250 * (4 + 8 + 4) + 250 * 2  # copy, moments and gradient; parameters
    memory = plan(2, "bfloat16", offload_optimizer="cpu")
    assert memory.held == {"parameters": 2000}
    assert memory.host == 250 * (4 + 8 + 4 + 2)  # and the buffer of new parameters


def test_a_reference_policy_is_a_replica_below_stage_3() -> None:
    def reference(stage: int) -> float:
        config = configured(learner__zero_stage=stage, model__dtype="bfloat16", loss__kl_coef=0.1)
        return learner_memory(SHAPE, config, ranks=4, on_gpu=False).held["reference"]

    assert (reference(2), reference(3)) == (2000, 500)


def test_an_engine_that_sleeps_keeps_its_context_and_graphs_on_a_shared_gpu() -> None:
    def held(**rollout: Any) -> dict[str, float]:
        config = configured(learner__zero_stage=2, **{f"rollout__{name}": value for name, value in rollout.items()})
        return learner_memory(SHAPE, config, ranks=1, on_gpu=True).held

    assert "sleeping engine" not in held()
    assert held(colocated=True)["sleeping engine"] == 3 * GIB
    assert held(colocated=True, enforce_eager=True)["sleeping engine"] == 2 * GIB


@pytest.mark.parametrize(("dtype", "width"), [("bfloat16", 2), ("float32", 4)])
def test_activations_are_what_a_real_layer_saves(dtype: str, width: int) -> None:
    import torch

    saved: dict[str, dict[int, int]] = {}
    model = random_model("small", dtype=dtype, device="cpu").train()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)  # so that no storage is used twice
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[layers][storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.arange(256).unsqueeze(0)
    for layers in ("two", "one"):
        saved[layers] = {}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        model.base_model.layers = model.base_model.layers[:1]
        model.config.num_hidden_layers = 1
    layer = sum(saved["two"].values()) - sum(saved["one"].values())
    sizes = SHAPES["small"]
    shape = replace(SEVEN, layers=1, hidden=64, intermediate=128, heads=4, head_size=sizes.hidden // sizes.heads)
    learner = configured(learner__microbatch_tokens=256, learner__pack_tokens=0).learner
    assert activation_bytes(shape, learner, width) == layer
    learner = learner.model_copy(update={"gradient_checkpointing": True})
    assert activation_bytes(replace(shape, layers=3), learner, width) == layer + 3 * 256 * 64 * width


def test_seven_billion_on_eight_gpus() -> None:
    config = configured(learner__zero_stage=3, model__dtype="bfloat16")
    held = learner_memory(SEVEN, config, ranks=4, on_gpu=True).held
    assert held["parameters"] / GIB == pytest.approx(7.6156 * 2 / 4 / 1.0737, rel=1e-3)
    assert held["optimizer"] / GIB == pytest.approx(7.6156 * 12 / 4 / 1.0737, rel=1e-3)
    cluster = Cluster(device=device_named("h100-80"), count=8)
    engine = engine_memory(SEVEN, config, cluster, tensor_parallel=1)
    assert engine.weights == 2 * 7_615_616_512
    assert engine.token == 2 * 28 * 4 * 128 * 2  # keys and values, layers, heads, size, bytes
    assert engine_memory(SEVEN, config, cluster, tensor_parallel=8).token == engine.token / 4  # at least one head
    assert engine.weights + engine.working + engine.cache == pytest.approx(0.85 * 80 * GIB * USABLE)
    assert engine.fits
    small = configured(rollout__gpu_memory_utilization=0.2)
    assert not engine_memory(SEVEN, small, cluster, tensor_parallel=1).fits


ONE_GPU = Path(__file__).parents[2] / "jobs" / "configs" / "one-gpu.yaml"
SIZES = (24, 40, 80)
ROWS = re.findall(r"^#   (\d+)  ([\d.]+) +(\d+)  (\S+)(.*)$", ONE_GPU.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("gib", "used", "host", "preset", "settings"), ROWS)
def test_one_gpu_s_table_is_what_planning_counts(gib: str, used: str, host: str, preset: str, settings: str) -> None:
    argv = ["--config", preset, "--config", "one-gpu", *settings.split()]
    config = load_config(argv, presets=ONE_GPU.parent)
    shape = model_shape(config.model)
    learner = learner_memory(shape, config, ranks=1, on_gpu=True)
    assert (round(learner.peak / GIB, 1), round(learner.host / GIB)) == (float(used), int(host))
    fitting = []
    for size in SIZES:
        cluster = Cluster(device=replace(device_named("h100-80"), memory_gib=size), count=1)
        engine = engine_memory(shape, config, cluster, tensor_parallel=1)
        fitting += [size] * (not shortages(config, cluster, learner, engine))
    assert fitting[0] == int(gib)


def test_one_gpu_s_table_has_a_row_for_every_size() -> None:
    assert {int(row[0]) for row in ROWS} == {*SIZES}
    assert {row[3] for row in ROWS} == {file.stem for file in ONE_GPU.parent.glob("*-*b-*.yaml")}
