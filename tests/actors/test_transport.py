"""A version reaches the store whole, whoever sends it, without the sender's memory being needed any longer."""

import sys
from typing import Any

import pytest
import ray
import torch

from gainrl_ray.actors import weights
from gainrl_ray.actors.buckets import unpack
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.transport import StoreSender
from gainrl_ray.actors.weights import Probe, WeightStoreActor
from gainrl_ray.errors import StaleAttemptError, WeightSyncError

LIMIT_S = 120.0


class Learner:
    """Sends weights that it changes as soon as they are sent."""

    def __init__(self, store: Any) -> None:
        self.weights = {f"w{i}": torch.full((1000, 100), float(i)) for i in range(7)}
        self.sender = StoreSender(Remote(store, "weight store", LIMIT_S), bucket_bytes=1 << 20, deadline_s=LIMIT_S)

    def send(self, version: int, attempt: int, fail_at: int | None = None) -> int:
        def named() -> Any:
            for number, item in enumerate(self.weights.items()):
                if number == fail_at:
                    raise WeightSyncError("the gather failed")
                yield item

        try:
            self.sender.send(version, attempt, named(), Probe(token_ids=(1, 2), logprobs=(0.0, -1.0)))
        finally:
            for tensor in self.weights.values():
                tensor.add_(100)
        return len(weights._offered)

    def offered(self) -> int:
        return len(weights._offered)


def held(store: Any, version: int) -> dict[str, torch.Tensor]:
    published = ray.get(store.published.remote(version), timeout=LIMIT_S)
    return dict(item for ref in published.buckets for item in unpack(ray.get(ref, timeout=LIMIT_S)))


@pytest.fixture
def store(ray_session: None) -> Any:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    store = WeightStoreActor.remote(keep=2)
    yield store
    ray.kill(store)
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_an_actors_weights_outlive_it(store: Any) -> None:
    """The actor's calls wait in its own thread, as a learner's do beside the thread of Ray Train."""
    learner = ray.remote(num_cpus=0, max_concurrency=2)(Learner).remote(store)
    assert ray.get(learner.send.remote(0, 1), timeout=LIMIT_S) == 0
    ray.kill(learner)
    found = held(store, 0)
    assert list(found) == [f"w{i}" for i in range(7)]
    assert all(bool((tensor == float(name[1:])).all()) for name, tensor in found.items())


def test_a_failed_gather_leaves_nothing_behind(store: Any) -> None:
    learner = ray.remote(num_cpus=0, max_concurrency=2)(Learner).remote(store)
    with pytest.raises(WeightSyncError, match="the gather failed"):
        ray.get(learner.send.remote(0, 1, 6), timeout=LIMIT_S)
    assert ray.get(learner.offered.remote(), timeout=LIMIT_S) == 0
    with pytest.raises(WeightSyncError, match="version 0 is not in the weight store"):
        ray.get(store.published.remote(0), timeout=LIMIT_S)
    assert ray.get(learner.send.remote(0, 1), timeout=LIMIT_S) == 0
    assert held(store, 0)["w0"][0, 0] == 100.0
    ray.kill(learner)


def test_a_driver_sends_by_call(store: Any) -> None:
    learner = Learner(store)
    learner.send(3, 2)
    assert held(store, 3)["w2"].eq(2.0).all()
    with pytest.raises(StaleAttemptError, match="attempt 1 began version 4"):
        learner.send(4, 1)
