"""Engine and learner compute the same function for each family, as loaded, after a sync and after training."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from model_families import FAMILIES, ROLLOUT, FamilyHost, all_families, save_family, some_ids
from tolerances import rounding, roundings_in

from gainrl_ray.actors.vllm_setup import environment
from gainrl_ray.config import ModelConfig
from gainrl_ray.model.loading import load_model

LIMIT_S = 300.0
FEW = ("Qwen3-MoE", "Mixtral", "Gemma 2", "Phi-3.5, longrope")


# An engine's memory stays in its process, which can bear a few.
@pytest.fixture(scope="function" if all_families() else "module")
def host(ray_session: None) -> Iterator[Any]:
    """A process for one engine after another."""
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[FamilyHost.__module__])  # workers cannot import a test module
    options = {"num_cpus": 0, "runtime_env": {"env_vars": environment(ROLLOUT, in_process=True)}}
    actor = ray.remote(FamilyHost).options(**options).remote()
    yield actor
    ray.kill(actor)


def nats(folder: Path) -> float:
    """By how much two implementations of the model may differ in float32."""
    return rounding(roundings_in(load_model(ModelConfig(path=str(folder), dtype="float32"))))


# Each starts an engine, which takes seconds: GAINRL_ALL_FAMILIES=1 tries all, as after a change of versions.
@pytest.mark.parametrize("name", FAMILIES if all_families() else FEW)
def test_engine_and_learner_agree(host: Any, name: str, tmp_path: Path) -> None:
    import ray

    folder = save_family(name, tmp_path)
    found, allowed = ray.get(host.check.remote(str(folder)), timeout=LIMIT_S), nats(folder)
    worst = max(found.synced, key=lambda group: found.synced[group])
    print(f"| {name} | {found.loaded:.1e} | {found.synced[worst]:.1e} | {found.trained:.1e} | {found.packed:.1e} |")
    assert found.loaded <= allowed
    assert min(found.moved.values()) > 10 * allowed, f"changes that do not show: {found.moved}"
    assert found.synced[worst] <= allowed, f"after a change of {worst} alone"
    assert max(found.trained, found.packed) <= allowed


def test_ids_without_a_token_are_never_sampled(host: Any, tmp_path: Path) -> None:
    import ray

    folder = save_family("Qwen3", tmp_path)
    config = ModelConfig(path=str(folder), dtype="float32")
    model: Any = load_model(config)
    with torch.no_grad():
        model.lm_head.weight[model.unused_ids] *= 100
        share = model(torch.tensor([some_ids(40)])).logits[0].softmax(-1)[:, model.unused_ids].sum(-1).mean()
    assert share > 0.9, "they would not be sampled anyway"
    model.save_pretrained(folder)
    ids, in_completions, in_scores = ray.get(host.sample.remote(str(folder)), timeout=LIMIT_S)
    assert len(ids) > 40
    assert not set(ids) & set(model.unused_ids.tolist())
    assert max(in_completions, in_scores) <= nats(folder)


def test_experts_that_were_not_renewed_are_an_error(host: Any, tmp_path: Path) -> None:
    import ray

    folder = save_family("Granite-MoE", tmp_path)
    said, difference = ray.get(host.sync_without_experts.remote(str(folder)), timeout=LIMIT_S)
    assert said.startswith("vLLM has no way to renew the experts of a GraniteMoeForCausalLM (2 layers did not take")
    assert difference <= nats(folder)
