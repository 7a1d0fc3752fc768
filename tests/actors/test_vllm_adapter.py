"""A real vLLM engine applies exactly the adapter of the version it serves, and no older one."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tolerances import of_built_in

from gainrl_ray.actors.buckets import WeightBucket, pack
from gainrl_ray.actors.vllm_setup import environment
from gainrl_ray.actors.weights import Probe
from gainrl_ray.config import LARGEST_ENGINE_RANK, LoraConfig, ModelConfig, RolloutConfig
from gainrl_ray.errors import WeightSyncError
from gainrl_ray.model.loading import load_model
from gainrl_ray.model.lora import adapter_sources, add_adapters
from gainrl_ray.types import Completion, SampleRequest, Sampling

LORA = LoraConfig(rank=6, alpha=12.0, sync="adapter")  # vLLM has no room of exactly 6
ROLLOUT = RolloutConfig(max_num_seqs=8, kv_cache_gib=0.25)
TOLERANCE = of_built_in()
LIMIT_S = 300.0
PROMPT = tuple(torch.randint(10, 400, (70,), generator=torch.Generator().manual_seed(0)).tolist())


class AdapterHost:
    """A RolloutEngine that takes adapters, in a process of its own, as a Ray actor."""

    def __init__(self, model: ModelConfig, folder: str) -> None:
        from gainrl_ray.actors.engine import RolloutEngine

        self.engine = RolloutEngine(
            model=model,
            rollout=ROLLOUT,
            tolerance=TOLERANCE,
            max_model_len=128,
            log_file=Path(folder) / "engine.log",
            lora=LORA,
        )

    def sync(self, version: int, buckets: list[WeightBucket], probe: Probe | None = None) -> Any:
        return self.engine.sync(version, buckets, probe)

    def generate(self, requests: list[SampleRequest], version: int) -> dict[str, Completion]:
        return dict(self.engine.generate(requests, version))

    def largest_rank(self) -> int:
        from vllm.config.lora import MaxLoRARanks

        return max(get_args(MaxLoRARanks))

    def adapters(self) -> list[int]:
        return sorted(self.engine._engine.list_loras())


class Learner:
    """The built-in model with adapters, and the engine that follows it."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        import ray

        variables = {**environment(ROLLOUT, in_process=True), "TMPDIR": str(folder)}
        options = {"num_cpus": 0, "runtime_env": {"env_vars": variables}}
        self.folder = folder
        self.actor = ray.remote(AdapterHost).options(**options).remote(config, str(folder))
        self.model = load_model(config)
        add_adapters(self.model, LORA, seed=0)

    def call(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self.actor, method).remote(*arguments), timeout=LIMIT_S)

    def train(self, seed: int) -> None:
        """Other adapters."""
        generator = torch.Generator().manual_seed(seed)
        for source in adapter_sources(self.model):
            source.weight.data = 0.1 * torch.randn(source.weight.shape, generator=generator)

    def buckets(self) -> list[WeightBucket]:
        return list(pack(((source.name, source.value().clone()) for source in adapter_sources(self.model)), 1 << 16))

    def logprobs(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        with torch.no_grad():
            table = self.model(torch.tensor([token_ids])).logits[0].double().log_softmax(-1)
        return (0.0, *(table[t - 1, token_ids[t]].item() for t in range(1, len(token_ids))))

    def probe(self) -> Probe:
        return Probe(token_ids=PROMPT, logprobs=self.logprobs(PROMPT))


@pytest.fixture(scope="module")
def learner(
    ray_session: None, tiny_model_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Learner]:
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[AdapterHost.__module__])  # workers cannot import a test module
    learner = Learner(tiny_model_config, tmp_path_factory.mktemp("engine"))
    yield learner
    ray.kill(learner.actor)


def test_every_version_is_served_with_its_own_adapter_alone(learner: Learner) -> None:
    request = SampleRequest(
        request_id="r", token_ids=PROMPT, seed=5, sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=24)
    )
    completions = []
    for version in (5, 6):  # the first is already a late one
        learner.train(seed=version)
        figures = learner.call("sync", version, learner.buckets(), learner.probe())
        assert figures.worst_difference < TOLERANCE
        assert figures.size < 400_000, "the adapter travels, not the model's 4 MB"
        assert len(learner.call("adapters")) == 1, "the older one is gone"
        assert not list(learner.folder.glob("gainrl-adapter-*")), "its files are gone too"
        completion = learner.call("generate", [request], version)["r"]
        wanted = learner.logprobs((*PROMPT, *completion.token_ids))[len(PROMPT) :]
        assert completion.logprobs == pytest.approx(wanted, abs=TOLERANCE)
        completions.append(completion.token_ids)
    assert completions[0] != completions[1]


def test_an_adapter_that_is_not_the_learners_is_refused(learner: Learner) -> None:
    buckets = learner.buckets()
    learner.train(seed=9)
    with pytest.raises(WeightSyncError, match=r"nats in the mean .* The engine does not hold the learner's weights"):
        learner.call("sync", 7, buckets, learner.probe())
    buckets = learner.buckets()
    first, *others = buckets[0].pieces
    spoilt = first.copy()
    spoilt[100] ^= 1
    with pytest.raises(WeightSyncError, match="arrived with checksum"):
        learner.call("sync", 7, [replace(buckets[0], pieces=(spoilt, *others)), *buckets[1:]], learner.probe())
    assert learner.call("sync", 7, buckets, learner.probe()).worst_difference < TOLERANCE


def test_the_largest_rank_is_that_of_vllm(learner: Learner) -> None:
    assert learner.call("largest_rank") == LARGEST_ENGINE_RANK
