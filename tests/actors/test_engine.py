"""A real vLLM engine holds exactly the learner's weights after a sync, serves only those, and repeats itself."""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import is_running
from tolerances import assert_same_completions, of_built_in

from gainrl_ray.actors.buckets import WeightBucket, pack
from gainrl_ray.actors.contents import contents
from gainrl_ray.actors.vllm_setup import environment
from gainrl_ray.actors.weights import Probe
from gainrl_ray.config import LoraConfig, ModelConfig, RolloutConfig
from gainrl_ray.errors import EngineError, WeightSyncError
from gainrl_ray.types import Completion, SampleRequest, Sampling

TOLERANCE = of_built_in()
ROLLOUT = RolloutConfig(max_num_seqs=32, kv_cache_gib=0.25)
MAX_MODEL_LEN = 512
LIMIT_S = 300.0
GROUPS = (
    "embed_tokens",
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "input_layernorm",
    "post_attention_layernorm",
    "model.norm",
)


class Host:
    """A RolloutEngine in a process of its own, as a Ray actor."""

    def __init__(self, model: ModelConfig, folder: str, in_process: bool) -> None:
        from gainrl_ray.actors.engine import RolloutEngine

        self.engine = RolloutEngine(
            model=model,
            rollout=ROLLOUT,
            tolerance=TOLERANCE if model.dtype == "float32" else None,
            max_model_len=MAX_MODEL_LEN,
            log_file=Path(folder) / "engine.log",
            in_process=in_process,
        )

    def sync(self, version: int, buckets: list[WeightBucket], probe: Probe | None = None) -> Any:
        return self.engine.sync(version, buckets, probe)

    def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        return self.engine.score(token_ids)

    def generate(self, requests: list[SampleRequest], version: int) -> dict[str, Completion]:
        return dict(self.engine.generate(requests, version))

    def sleep(self) -> None:
        self.engine.sleep()

    def pid(self) -> int:
        return os.getpid()

    def state(self) -> tuple[str, int | None, int]:
        return str(self.engine.state), self.engine.version, self.engine.unfinished

    def submit_step_abort(self, requests: list[SampleRequest], version: int) -> int:
        self.engine.submit(requests, version)
        self.engine.step()
        left = self.engine.unfinished
        self.engine.abort()
        return left

    def sync_while_busy(self, requests: list[SampleRequest], version: int, buckets: list[WeightBucket]) -> None:
        self.engine.submit(requests, version)
        self.engine.step()
        try:
            self.engine.sync(version, buckets)
        finally:
            self.engine.abort()

    def sync_with(self, change: str, version: int, buckets: list[WeightBucket], probe: Probe | None) -> Any:
        """Sync with one part of the work left out."""
        from gainrl_ray.actors import vllm_transfer

        inner = self.engine._engine
        kept = (vllm_transfer.retie_head, inner.reset_prefix_cache)
        try:
            if change == "head not retied":
                vllm_transfer.retie_head = lambda model, *, tied: None
            elif change == "cache not reset":
                inner.reset_prefix_cache = lambda: True
            elif change == "reset refused":
                inner.reset_prefix_cache = lambda: False
            return self.engine.sync(version, buckets, probe)
        finally:
            vllm_transfer.retie_head, inner.reset_prefix_cache = kept

    def sync_damaged(
        self, fault: str, name: str, version: int, buckets: list[WeightBucket], probe: Probe, older: Any = None
    ) -> Any:
        """Sync while the tensor of this name reaches vLLM's loader otherwise than it was sent."""
        from gainrl_ray.actors.vllm_transfer import ObjectStoreTransferEngine as Engine

        whole = Engine._tensors
        faults = {
            "zeroed": torch.zeros_like,
            "transposed": lambda tensor: tensor.t().contiguous(),
            "rows in another order": lambda tensor: tensor.roll(7, 0),
            "stale": lambda tensor: older,
        }

        def damaged(engine: Any, info: Any) -> Iterator[tuple[str, torch.Tensor]]:
            for found, tensor in whole(engine, info):
                if found != name:
                    yield found, tensor
                elif fault != "not loaded":
                    yield found, faults[fault](tensor)

        try:
            Engine._tensors = damaged
            return self.engine.sync(version, buckets, probe)
        finally:
            Engine._tensors = whole


class Client:
    """Calls on a Host with a deadline, beside a transformers model that plays the learner."""

    def __init__(self, model: Any, folder: Path, config: ModelConfig, *, in_process: bool = True) -> None:
        import ray

        self.model, self.folder, self.version = model, folder, 0
        self.start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        options = {"num_cpus": 0, "runtime_env": {"env_vars": environment(ROLLOUT, in_process=in_process)}}
        self.actor = ray.remote(Host).options(**options).remote(config, str(folder), in_process)

    def call(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self.actor, method).remote(*arguments), timeout=LIMIT_S)

    def buckets(self) -> list[WeightBucket]:
        return list(pack(self.model.named_parameters(), 1 << 18))

    def publish(self, probe: Probe | None = None) -> Any:
        self.version += 1
        return self.call("sync", self.version, self.buckets(), probe)

    def restore(self) -> None:
        self.model.load_state_dict(self.start)

    def change(self, group: str) -> int:
        """Number of parameters changed."""
        generator = torch.Generator().manual_seed(sum(map(ord, group)))
        changed = 0
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if group in name:
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
                    changed += 1
        return changed

    def logprobs(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """A plain transformers forward: log-probability of every token given those before."""
        with torch.no_grad():
            table = self.model(torch.tensor([token_ids])).logits[0].double().log_softmax(-1)
        return (0.0, *(table[t - 1, token_ids[t]].item() for t in range(1, len(token_ids))))

    def probe(self, token_ids: Sequence[int]) -> Probe:
        return Probe(token_ids=tuple(token_ids), logprobs=self.logprobs(token_ids))

    def full_probe(self, token_ids: Sequence[int], *, with_contents: bool = True) -> Probe:
        """What a learner sends."""
        from gainrl_ray.model.policy import PolicyModel
        from gainrl_ray.model.probing import probe

        policy = PolicyModel(self.model)
        logprobs, rounded = probe(policy, policy, token_ids)
        found = contents(self.model.parameters()) if with_contents else ()
        return Probe(token_ids=tuple(token_ids), logprobs=logprobs, rounded=rounded, contents=found)


def vllm_processes_below(pid: int) -> list[int]:
    """Those that the process started, and those that they did."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    found = [child for child in children if "VLLM" in Path(f"/proc/{child}/comm").read_text()]
    return found + [below for child in children for below in vllm_processes_below(child)]


def untied_copy(config: ModelConfig, folder: Path) -> tuple[Any, ModelConfig]:
    """The model with an output head of its own, as another folder."""
    from gainrl_ray.model.loading import load_model, load_tokenizer

    model = load_model(config)
    model.config.tie_word_embeddings = False
    head = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    with torch.no_grad():
        head.add_(0.01 * torch.randn(head.shape, generator=torch.Generator().manual_seed(1)))
    model.lm_head.weight = head
    model.save_pretrained(folder)
    load_tokenizer(config).save_pretrained(folder)
    untied = config.model_copy(update={"path": str(folder)})
    return load_model(untied), untied


@pytest.fixture(scope="module")
def clients(
    ray_session: None, tiny_model_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Client]]:
    """The tied and the untied model, each with its engine; the engines start side by side."""
    import ray
    from ray import cloudpickle

    from gainrl_ray.model.loading import load_model

    cloudpickle.register_pickle_by_value(sys.modules[Host.__module__])  # workers cannot import a test module
    folder = tmp_path_factory.mktemp("engines")
    untied, untied_config = untied_copy(tiny_model_config, folder / "untied")
    half = tiny_model_config.model_copy(update={"dtype": "bfloat16"})
    wide = half.model_copy(update={"head_dtype": "float32"})
    both = {
        "tied": Client(load_model(tiny_model_config), folder / "a", tiny_model_config),
        "untied": Client(untied, folder / "b", untied_config),
        "bfloat16": Client(load_model(half), folder / "c", half),
        "float32 head": Client(load_model(wide), folder / "d", wide),
    }
    yield both
    for client in both.values():
        ray.kill(client.actor)


@pytest.fixture
def tied(clients: dict[str, Client]) -> Client:
    clients["tied"].restore()
    return clients["tied"]


def token_ids(count: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(torch.randint(10, 400, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


def requests(count: int, *, new_tokens: int = 24, temperature: float = 1.0) -> list[SampleRequest]:
    sampling = Sampling(temperature=temperature, top_p=1.0, max_new_tokens=new_tokens)
    return [
        SampleRequest(request_id=f"r{i}", token_ids=token_ids(20 + i // 4, i // 4), seed=1000 + i, sampling=sampling)
        for i in range(count)
    ]


def largest(a: Sequence[float], b: Sequence[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def test_the_fixtures_are_what_they_say(clients: dict[str, Client]) -> None:
    tied, untied = clients["tied"].model, clients["untied"].model
    assert tied.config.tie_word_embeddings
    assert not untied.config.tie_word_embeddings
    assert "lm_head.weight" in dict(untied.named_parameters())
    assert "lm_head.weight" not in dict(tied.named_parameters())


CASES = [("tied", group) for group in GROUPS] + [("untied", group) for group in (*GROUPS, "lm_head")]


@pytest.mark.parametrize(("kind", "group"), CASES)
def test_each_parameter_group_arrives(clients: dict[str, Client], kind: str, group: str) -> None:
    client, tokens = clients[kind], token_ids(40)
    client.restore()
    client.publish(client.probe(tokens))
    before = client.logprobs(tokens)
    assert client.change(group) > 0
    after = client.logprobs(tokens)
    assert largest(before, after) > 100 * TOLERANCE, "the change does not show in the log-probabilities"
    figures = client.publish(client.probe(tokens))
    assert largest(client.call("score", tokens), after) <= TOLERANCE
    assert figures.worst_difference <= TOLERANCE


def test_weights_with_adapters_merged_in_are_the_adapted_policy(tied: Client, tiny_model_config: ModelConfig) -> None:
    from gainrl_ray.model.loading import load_model
    from gainrl_ray.model.lora import adapter_sources, add_adapters, merged_sources

    tokens, generator = token_ids(40), torch.Generator().manual_seed(3)
    unadapted, plain = tied.logprobs(tokens), tied.model
    try:
        tied.model = load_model(tiny_model_config)
        add_adapters(tied.model, LoraConfig(rank=4), seed=0)
        for source in adapter_sources(tied.model):
            source.weight.data = 0.05 * torch.randn(source.weight.shape, generator=generator)
        probe = tied.probe(tokens)
        buckets = list(pack(((source.name, source.value()) for source in merged_sources(tied.model)), 1 << 18))
    finally:
        tied.model = plain
    assert largest(unadapted, probe.logprobs) > 100 * TOLERANCE
    tied.version += 1
    assert tied.call("sync", tied.version, buckets, probe).worst_difference <= TOLERANCE


def test_a_head_that_kept_the_old_embedding_is_caught(tied: Client) -> None:
    tokens = token_ids(40)
    tied.publish(tied.probe(tokens))
    tied.change("embed_tokens")
    with pytest.raises(
        WeightSyncError,
        match=rf"probe tokens .* nats in the mean .*allowed are {TOLERANCE:.3g} and {10 * TOLERANCE:.3g}, sync.verify",
    ):
        tied.call("sync_with", "head not retied", 500, tied.buckets(), tied.probe(tokens))
    assert tied.call("state") == ("stale", None, 0)
    with pytest.raises(EngineError, match="version 500 were asked of an engine that is stale"):
        tied.call("generate", requests(1), 500)
    tied.publish(tied.probe(tokens))


LAYER = "model.layers.1."


@pytest.mark.parametrize("kind", ["tied", "untied", "bfloat16", "float32 head"])
def test_right_weights_pass_by_their_contents_and_by_what_rounding_explains(
    clients: dict[str, Client], kind: str
) -> None:
    client, tokens = clients[kind], token_ids(120)
    client.restore()
    client.change("down_proj")
    probe = client.full_probe(tokens)
    figures = client.publish(probe)
    assert figures.mean_difference <= figures.worst_difference
    said = [line for line in (client.folder / "engine.log").read_text().splitlines() if "gainrl_ray" in line]
    assert "weights are those that were sent" in said[-1]
    assert str(sum(parameter.numel() for parameter in client.model.parameters())) in said[-1]
    if kind in ("bfloat16", "float32 head"):  # there is something to explain
        assert figures.mean_difference > 10 * TOLERANCE


def test_a_float32_head_gives_log_probabilities_finer_than_bfloat16(clients: dict[str, Client]) -> None:
    tokens, odds = token_ids(60), {}
    for kind in ("bfloat16", "float32 head"):
        client = clients[kind]
        client.restore()
        client.publish(client.full_probe(tokens))
        sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=1)
        asked = [SampleRequest(request_id=f"h{i}", token_ids=tokens, seed=i, sampling=sampling) for i in range(24)]
        found = client.call("generate", asked, client.version).values()
        odds[kind] = {completion.token_ids[0]: completion.logprobs[0] for completion in found}
    assert min(map(len, odds.values())) > 2
    # Logits in bfloat16 have 8 bits, so that differences of their logarithms are multiples of 1/128 up to size 2,
    # and coarser above.
    for kind, is_coarse in (("bfloat16", True), ("float32 head", False)):
        first, *others = odds[kind].values()
        steps = [(other - first) * 128 for other in others]
        on_grid = [abs(step - round(step)) < 1e-2 for step in steps]
        assert all(on_grid) if is_coarse else not any(on_grid)


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("zeroed", "self_attn.q_proj.weight"),
        ("zeroed", "mlp.down_proj.weight"),
        ("transposed", "self_attn.o_proj.weight"),
        ("rows in another order", "mlp.down_proj.weight"),
        ("rows in another order", "self_attn.v_proj.weight"),
    ],
)
def test_a_wrong_tensor_shows_in_the_log_probabilities_in_bfloat16(
    clients: dict[str, Client], fault: str, name: str
) -> None:
    client, tokens = clients["bfloat16"], token_ids(120)
    client.restore()
    probe = client.full_probe(tokens, with_contents=False)
    with pytest.raises(WeightSyncError, match="nats in the mean"):
        client.call("sync_damaged", fault, LAYER + name, 800, client.buckets(), probe)
    client.publish(probe)


@pytest.mark.parametrize("kind", ["tied", "bfloat16"])
def test_numbers_too_small_to_show_are_missed_by_their_contents(clients: dict[str, Client], kind: str) -> None:
    client, tokens = clients[kind], token_ids(120)
    client.restore()
    name = LAYER + "self_attn.k_proj.weight"
    older = client.start[name].clone()
    with torch.no_grad():
        weight = dict(client.model.named_parameters())[name]
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(1.0, dtype=weight.dtype))
    probe, buckets = client.full_probe(tokens), client.buckets()
    unseen = replace(probe, contents=())
    client.call("sync_damaged", "stale", name, 801, buckets, unseen, older)  # nothing shows
    for fault in ("stale", "not loaded"):
        with pytest.raises(WeightSyncError, match="vLLM holds other weights than were sent"):
            client.call("sync_damaged", fault, name, 802, buckets, probe, older)
        assert client.call("state") == ("stale", None, 0)
    assert client.call("sync", 803, buckets, probe).version == 803


def greedy(tied: Client, prompt: tuple[int, ...]) -> Completion:
    sampling = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=4)
    request = SampleRequest(request_id="g", token_ids=prompt, seed=0, sampling=sampling)
    return tied.call("generate", [request], tied.version)["g"]


def test_a_sync_empties_the_prefix_cache(tied: Client) -> None:
    prompt = token_ids(300)
    tied.publish()
    first = greedy(tied, prompt)
    tied.change("k_proj")
    tied.publish()
    second = greedy(tied, prompt)
    at = len(prompt)
    assert largest(second.logprobs, tied.logprobs((*prompt, *second.token_ids))[at:]) <= TOLERANCE
    assert largest(first.logprobs, tied.logprobs((*prompt, *first.token_ids))[at:]) > 10 * TOLERANCE

    tied.change("v_proj")
    tied.version += 1
    tied.call("sync_with", "cache not reset", tied.version, tied.buckets(), None)
    stale = greedy(tied, prompt)
    assert largest(stale.logprobs, tied.logprobs((*prompt, *stale.token_ids))[at:]) > 10 * TOLERANCE, (
        "the prefix cache was not in use, so this test shows nothing"
    )


def test_a_cache_that_cannot_be_emptied_is_an_error(tied: Client) -> None:
    with pytest.raises(EngineError, match="did not empty its prefix cache"):
        tied.call("sync_with", "reset refused", 600, tied.buckets(), None)
    assert tied.call("state")[0] == "stale"


def test_only_the_confirmed_version_is_served(tied: Client) -> None:
    tied.publish()
    with pytest.raises(EngineError, match=f"version {tied.version + 1} were asked of an engine that is serving"):
        tied.call("generate", requests(1), tied.version + 1)
    with pytest.raises(EngineError, match="8 requests under way: drain them first"):
        tied.call("sync_while_busy", requests(8), tied.version, tied.buckets())
    assert tied.call("submit_step_abort", requests(8), tied.version) == 8
    assert tied.call("state") == ("serving", tied.version, 0)


def test_an_engine_that_slept_is_as_good_as_new(tied: Client) -> None:
    tokens = token_ids(30)
    tied.publish()
    asked = requests(8)
    before = tied.call("generate", asked, tied.version)
    for _ in range(2):
        tied.call("sleep")
    assert tied.call("state") == ("asleep", None, 0)
    with pytest.raises(EngineError, match="of an engine that is asleep"):
        tied.call("generate", asked, tied.version)
    damaged = [replace(bucket, checksum=bucket.checksum ^ 1) for bucket in tied.buckets()]
    with pytest.raises(WeightSyncError, match="checksum"):
        tied.call("sync", 690, damaged, None)
    tied.publish(tied.probe(tokens))
    assert tied.call("generate", asked, tied.version) == before


def test_damaged_or_missing_weights_are_refused(tied: Client) -> None:
    tokens = token_ids(30)
    buckets = tied.buckets()
    assert len(buckets) > 2
    damaged = [*buckets[:1], replace(buckets[1], checksum=buckets[1].checksum ^ 1), *buckets[2:]]
    with pytest.raises(WeightSyncError, match=r"bucket 1 .*checksum"):
        tied.call("sync", 700, damaged, None)
    assert tied.call("state")[0] == "stale"
    without = [(name, tensor) for name, tensor in tied.model.named_parameters() if "layers.1.mlp.down_proj" not in name]
    with pytest.raises(WeightSyncError, match=r"1 parameters .* were not sent: .*layers.1.mlp.down_proj"):
        tied.call("sync", 701, list(pack(without, 1 << 18)), None)
    tied.change("down_proj")
    tied.publish(tied.probe(tokens))
    assert largest(tied.call("score", tokens), tied.logprobs(tokens)) <= TOLERANCE


def test_the_same_seed_gives_the_same_completion_in_any_batch(tied: Client) -> None:
    tied.publish()
    asked = requests(16)
    together = tied.call("generate", asked, tied.version)
    backwards = tied.call("generate", asked[::-1], tied.version)
    alone = {key: value for r in asked[:4] for key, value in tied.call("generate", [r], tied.version).items()}
    assert_same_completions(together, backwards)
    assert_same_completions(alone, {request.request_id: together[request.request_id] for request in asked[:4]})
    assert len({completion.token_ids for completion in together.values()}) > 8, "seeds make no difference"


def test_completions_carry_the_sampling_distribution(tied: Client) -> None:
    tied.publish()
    for completion, request in ((tied.call("generate", [r], tied.version)[r.request_id], r) for r in requests(3)):
        at = len(request.token_ids)
        expected = tied.logprobs((*request.token_ids, *completion.token_ids))[at:]
        assert largest(completion.logprobs, expected) <= TOLERANCE
        ends = completion.token_ids[-1] == tied.model.generation_config.eos_token_id
        assert completion.finish_reason == ("stop" if ends else "length")
        assert len(completion.token_ids) == 24 or ends

    # at temperature T the distribution is softmax(logits / T), and that is what the log-probabilities are of
    request = requests(1, temperature=0.5, new_tokens=1)[0]
    completion = tied.call("generate", [request], tied.version)["r0"]
    with torch.no_grad():
        logits = tied.model(torch.tensor([request.token_ids])).logits[0, -1].double()
    sharper = (logits / 0.5).log_softmax(-1)[completion.token_ids[0]].item()
    assert math.isclose(completion.logprobs[0], sharper, abs_tol=TOLERANCE)


def test_an_engine_in_another_process_keeps_the_same_contract(
    clients: dict[str, Client], tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    import ray

    tied, tokens = clients["tied"], token_ids(40)
    tied.restore()
    other = Client(tied.model, tmp_path, tiny_model_config, in_process=False)
    try:
        tied.publish()
        other.publish(other.probe(tokens))
        first = other.call("generate", requests(4), other.version)
        assert_same_completions(first, tied.call("generate", requests(4), tied.version))
        other.change("embed_tokens")
        other.publish(other.probe(tokens))
        assert largest(other.call("score", tokens), other.logprobs(tokens)) <= TOLERANCE
        changed = other.call("generate", requests(4), other.version)
        assert [changed[name].token_ids for name in first] != [each.token_ids for each in first.values()]
        damaged = [replace(bucket, checksum=0) for bucket in other.buckets()]
        with pytest.raises(WeightSyncError, match=r"bucket 0 .*checksum"):
            other.call("sync", 9, damaged, None)
        actor = other.call("pid")
        started = vllm_processes_below(actor)
        assert len(started) == 2, "EngineCore and its worker"
        os.kill(actor, signal.SIGKILL)
        deadline = time.monotonic() + 10.0
        while left := [pid for pid in started if is_running(pid)]:
            assert time.monotonic() < deadline, f"{left} are left behind"
            time.sleep(0.05)
    finally:
        ray.kill(other.actor)


def test_what_vllm_says_goes_to_the_log_file(tied: Client) -> None:
    tied.publish()
    assert "INFO vllm" in (tied.folder / "engine.log").read_text()
