"""A broadcast brings engines to exactly the version that the store holds, and whoever misses it goes to the store."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
import torch
from ray.actor import ActorHandle
from tolerances import of_built_in

from gainrl_ray.actors.broadcast import Receivers, way
from gainrl_ray.actors.buckets import Way
from gainrl_ray.actors.pool import RolloutPool
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.transport import BroadcastSender, StoreSender
from gainrl_ray.actors.weights import Probe, WeightStoreActor
from gainrl_ray.config import Config, ModelConfig
from gainrl_ray.types import Completion, SampleRequest, Sampling

LIMIT_S = 120.0
TOLERANCE = of_built_in()
STALL_S = 30.0


def config(**sections: dict[str, Any]) -> Config:
    tree: dict[str, Any] = {
        "model": {"path": "tiny", "dtype": "float32"},
        "data": {"prompt": {"max_tokens": 64}},
        "rollout": {"engines": 2, "max_num_seqs": 16, "kv_cache_gib": 0.25, "max_new_tokens": 32},
        "sync": {"verify_tolerance": TOLERANCE, "deadline_s": 60.0},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return Config.model_validate(tree)


class Learner:
    """A process with a model that it changes, and both ways out of it."""

    def __init__(self, model: ModelConfig, store: Any, attempt: int) -> None:
        from gainrl_ray.model.loading import load_model

        self.model, self.attempt = load_model(model), attempt
        remote = Remote(store, "weight store", LIMIT_S)
        self.to_store = StoreSender(remote, bucket_bytes=1 << 20, deadline_s=LIMIT_S)
        self.travel("gloo")

    def travel(self, way: Way) -> None:
        self.to_all = BroadcastSender("127.0.0.1", torch.device("cpu"), way, STALL_S)

    def change(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))

    def probe(self) -> Probe:
        tokens = tuple(range(20, 60))
        with torch.no_grad():
            table = self.model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
        return Probe(token_ids=tokens, logprobs=(0.0, *(table[t - 1, tokens[t]].item() for t in range(1, 40))))

    def store(self, version: int) -> None:
        self.to_store.send(version, self.attempt, self.model.named_parameters(), self.probe())

    def announce(self, verify: bool) -> Any:
        return self.to_all.announce(self.to_store.layout, self.probe() if verify else None)

    def broadcast(self, receivers: Receivers, die_after: int | None = None) -> bool:
        def named() -> Iterator[tuple[str, torch.Tensor]]:
            for number, item in enumerate(self.model.named_parameters()):
                if number == die_after:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield item

        return self.to_all.send(receivers, named())


class Scene:
    """A store, a learner beside a pool of two engines, and the versions that go from one to the other."""

    def __init__(self, model: ModelConfig) -> None:
        self.model = model
        self.store = WeightStoreActor.remote(keep=2)
        self.pool = RolloutPool(config())
        self.pool.use_store(self.store)
        self.attempt = 0
        self.groups: list[Receivers | None] = []
        self.new_learner()

    def new_learner(self) -> None:
        self.attempt += 1
        actor = ray.remote(num_cpus=0, max_concurrency=2)(Learner)
        self.learner: ActorHandle = actor.remote(self.model, self.store, self.attempt)

    def call(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.learner, method).remote(*arguments), timeout=LIMIT_S)

    def publish(self, version: int) -> None:
        self.call("store", version)
        self.pool.stored(version)

    def broadcast(
        self,
        version: int,
        *,
        verify: bool = True,
        die_after: int | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> tuple[bool, bool | None]:
        """Whether the engines have it, and whether the learner says so; None when it died."""
        sent: list[Any] = []

        def begin(receivers: Receivers | None) -> None:
            self.groups.append(receivers)
            before()
            sent.append(self.learner.broadcast.remote(receivers, die_after))

        received = self.pool.receive(version, self.call("announce", verify), begin)
        try:
            return received, ray.get(sent[0], timeout=LIMIT_S)
        except ray.exceptions.RayActorError:
            return received, None

    def states(self) -> list[tuple[str, int | None]]:
        return [(engine["state"], engine["version"]) for engine in self.pool.describe()]


@pytest.fixture(scope="module")
def scene(ray_session: None, tiny_model_config: ModelConfig) -> Iterator[Scene]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    scene = Scene(tiny_model_config)
    scene.pool.start()
    scene.publish(0)
    scene.pool.sync(0)
    yield scene
    scene.pool.close()
    ray.kill(scene.store)
    ray.kill(scene.learner)
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def completions(scene: Scene, version: int) -> dict[str, Completion]:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=16)
    asked = [
        SampleRequest(request_id=f"{i}", token_ids=tuple(range(30 + i, 50 + i)), seed=i, sampling=sampling)
        for i in range(8)
    ]
    return dict(scene.pool.generate(asked, version, LIMIT_S))


def test_a_broadcast_brings_what_the_store_brings(scene: Scene) -> None:
    before = completions(scene, 0)
    scene.call("change", 1)
    assert scene.broadcast(1) == (True, True)
    assert scene.states() == [("serving", 1)] * 2
    figures = scene.pool.sync(1)  # the store does not hold it yet
    assert (figures["engines"], figures["worst_difference"] <= TOLERANCE, figures["bytes"] > 1e6) == (2, True, True)
    after = completions(scene, 1)
    assert after != before

    scene.publish(1)
    scene.pool.invalidate()
    scene.pool.sync(1)
    assert completions(scene, 1) == after, "tokens and log-probabilities alike, to the last bit"


def test_the_group_lasts_until_a_learner_dies_whose_engines_recover_by_the_store(scene: Scene) -> None:
    scene.publish(1)
    scene.pool.sync(1)
    for version in (2, 3):
        scene.call("change", version)
        assert scene.broadcast(version) == (True, True)
        scene.publish(version)
    assert scene.groups[-1] == scene.groups[-2], "the same engines are the same group"

    scene.call("change", 4)
    started = time.monotonic()
    assert scene.broadcast(4, verify=False, die_after=20) == (False, None)
    assert time.monotonic() - started < STALL_S / 2, "a learner that is gone is noticed, not waited for"
    assert scene.states() == [("stale", None)] * 2

    scene.new_learner()
    scene.call("change", 5)
    scene.publish(4)
    scene.pool.invalidate()
    figures = scene.pool.sync(4)
    assert (figures["engines"], figures["worst_difference"] <= TOLERANCE) == (2, True)
    assert scene.broadcast(5) == (True, True)
    assert scene.groups[-1] != scene.groups[-2]
    scene.publish(5)


def test_a_lost_engine_leaves_the_group_and_comes_back_by_the_store(scene: Scene) -> None:
    """By memory that is shared."""
    scene.call("travel", "ipc")
    scene.pool.sync(5)
    os.kill(scene.pool.describe()[0]["pid"], signal.SIGKILL)
    time.sleep(0.5)
    scene.call("change", 6)
    assert scene.broadcast(6) == (True, True)
    assert scene.groups[-1] is not None and scene.groups[-1].workers == 1
    assert scene.pool.sync(6)["engines"] == 1
    alone = completions(scene, 6)
    scene.publish(6)
    deadline = time.monotonic() + LIMIT_S
    while scene.states() != [("serving", 6)] * 2:
        assert time.monotonic() < deadline, scene.pool.describe()
        scene.pool.sync(6)
        time.sleep(0.2)
    assert completions(scene, 6) == alone
    scene.call("change", 7)
    assert scene.broadcast(7) == (True, True)
    assert scene.groups[-1] is not None and scene.groups[-1].workers == 2


def test_an_engine_that_dies_in_a_broadcast_keeps_no_other_from_the_version(scene: Scene) -> None:
    scene.publish(7)
    scene.pool.sync(7)
    scene.call("travel", "gloo")
    scene.call("change", 8)
    assert scene.broadcast(8) == (True, True)
    scene.publish(8)
    scene.call("change", 9)
    victim = scene.pool.describe()[0]["pid"]
    started = time.monotonic()
    received, _ = scene.broadcast(9, before=lambda: os.kill(victim, signal.SIGKILL))
    assert not received
    assert time.monotonic() - started < STALL_S / 2
    scene.publish(9)
    assert scene.pool.sync(9)["engines"] >= 1
    assert len(completions(scene, 9)) == 8

    announced: list[Receivers | None] = []
    assert not scene.pool.receive(10, scene.call("announce", False), announced.append)
    assert announced == [None], "a verified broadcast that fails is the last one"


TURNS = {"rollout": {"colocated": True}, "learner": {"zero_stage": 2}}
ON_HOST = {"zero_stage": 3, "offload_optimizer": "cpu", "offload_params": "cpu"}
TABLE = [
    # backend, learner GPUs, engine GPUs, other settings, way of a broadcast or None
    ("auto", 0.0, 0.0, {}, None),
    ("auto", 1.0, 1.0, {}, "nccl"),
    ("auto", 1.0, 2.0, {}, "nccl"),
    ("auto", 1.0, 0.0, {}, None),
    ("auto", 0.0, 1.0, {}, None),
    ("auto", 0.5, 0.5, {}, None),
    ("auto", 1.0, 1.0, {"rollout": {"max_staleness": 1}}, None),
    ("auto", 1.0, 1.0, {"lora": {"rank": 8, "sync": "adapter"}, "model": {"dtype": "bfloat16"}}, None),
    ("auto", 1.0, 1.0, {"lora": {"rank": 8}}, "nccl"),
    ("object_store", 1.0, 1.0, {}, None),
    ("broadcast", 0.0, 0.0, {}, "gloo"),
    ("broadcast", 1.0, 0.0, {}, "gloo"),
    ("broadcast", 1.0, 1.0, {}, "nccl"),
    ("auto", 0.0, 0.0, TURNS, None),
    ("auto", 1.0, 1.0, TURNS, "ipc"),
    ("auto", 1.0, 1.0, {**TURNS, "learner": {"zero_stage": 2, "workers": 2}}, None),
    ("auto", 1.0, 1.0, {**TURNS, "learner": ON_HOST}, None),
    ("object_store", 1.0, 1.0, TURNS, None),
    ("ipc", 0.0, 0.0, TURNS, "ipc"),
]


@pytest.mark.parametrize(("backend", "learner", "engine", "others", "expected"), TABLE)
def test_broadcasts_are_used_where_they_can_be(
    backend: str, learner: float, engine: float, others: dict[str, Any], expected: str | None
) -> None:
    sections = {
        **others,
        "sync": {"backend": backend},
        "learner": {"gpus_per_worker": learner, **others.get("learner", {})},
        "rollout": {"engines": 1, "gpus_per_engine": engine, **others.get("rollout", {})},
    }
    made = config(**sections)
    assert made.fast_sync == (expected if expected in (None, "ipc") else "broadcast")
    if expected:
        assert way(made) == expected


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rollout": {"max_staleness": 1}}, "needs rollout.max_staleness 0"),
        ({"rollout": {"colocated": True}, "learner": {"zero_stage": 2}}, "needs rollout.colocated false"),
        ({"lora": {"rank": 8, "sync": "adapter"}}, "needs lora.sync=merged"),
        ({"learner": {"gpus_per_worker": 0.5}, "rollout": {"gpus_per_engine": 1.0}}, "received 0.5 and 1"),
    ],
)
def test_a_broadcast_that_cannot_be_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(sync={"backend": "broadcast"}, **sections)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, "ipc needs rollout.colocated true"),
        ({"rollout": {"colocated": True}, "learner": {"workers": 2}}, "needs learner.workers 1, received 2"),
        ({"rollout": {"colocated": True}, "learner": ON_HOST}, "needs learner.zero_stage 2, received 3"),
        ({"rollout": {"colocated": True, "max_staleness": 1}}, "colocated needs rollout.max_staleness 0"),
        ({"rollout": {"colocated": True}, "lora": {"rank": 8, "sync": "adapter"}}, "needs lora.sync=merged"),
    ],
)
def test_memory_that_cannot_be_shared_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(sync={"backend": "ipc"}, **sections)
