"""The store owns whole versions only, and refuses what is not whole."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from gainrl_ray.actors.buckets import WeightBucket, pack, unpack
from gainrl_ray.actors.weights import Probe, WeightStore, WeightStoreActor, is_alive, place_store
from gainrl_ray.errors import ResourceError, StaleAttemptError, WeightSyncError


def tensors() -> list[tuple[str, torch.Tensor]]:
    return [(name, torch.full((20,), value)) for name, value in (("a", 1.5), ("b", -2.0), ("c", 3.25))]


def test_a_probe_has_one_log_probability_per_token() -> None:
    with pytest.raises(ValueError, match="3 token ids and \\[2\\]"):
        Probe(token_ids=(1, 2, 3), logprobs=(0.0, -1.0))


@pytest.fixture
def store(ray_session: None) -> WeightStore:
    return WeightStore(keep=2)


def publish(store: WeightStore, version: int, attempt: int = 1) -> list[WeightBucket]:
    buckets = list(pack(tensors(), 128))
    store.begin(version, attempt)
    for bucket in buckets:
        store.put(version, bucket)
    store.commit(version)
    return buckets


def test_a_committed_version_is_read_back(store: WeightStore) -> None:
    import ray

    assert store.latest() is None
    buckets = publish(store, 3)
    assert store.latest() == 3
    found = ray.get(store.buckets(3), timeout=120)
    assert [bucket.entries for bucket in found] == [bucket.entries for bucket in buckets]
    assert all(
        np.array_equal(np.concatenate(a.pieces), np.concatenate(b.pieces)) for a, b in zip(found, buckets, strict=True)
    )


def test_at_most_two_versions_are_held(store: WeightStore) -> None:
    for version in (0, 1, 2):
        publish(store, version)
    with pytest.raises(WeightSyncError, match=r"version 0 is not in the weight store; it holds \[1, 2\]"):
        store.published(0)
    store.release(2)
    with pytest.raises(WeightSyncError, match=r"holds \[2\]"):
        store.published(1)


def test_an_open_version_is_not_served(store: WeightStore) -> None:
    publish(store, 0)
    store.begin(1, 1)
    assert store.latest() == 0
    with pytest.raises(WeightSyncError, match="version 1 is not in the weight store"):
        store.published(1)


def test_an_older_attempt_is_refused_and_a_newer_one_starts_afresh(store: WeightStore) -> None:
    publish(store, 4, attempt=1)
    store.begin(2, 3)
    assert store.latest() is None
    with pytest.raises(StaleAttemptError, match="attempt 1 began version 5, attempt 3 is running"):
        store.begin(5, 1)


def test_incomplete_streams_are_refused(store: WeightStore) -> None:
    buckets = list(pack(tensors(), 128))
    store.begin(0, 1)
    store.put(0, buckets[0])
    with pytest.raises(WeightSyncError, match=r"version 0 is incomplete: .*no last bucket"):
        store.commit(0)
    with pytest.raises(WeightSyncError, match="bucket 0 of version 0 came where 1 was due"):
        store.put(0, buckets[0])
    with pytest.raises(WeightSyncError, match="version 9 is not open"):
        store.put(9, buckets[1])
    assert buckets[-1].total is not None
    short = replace(buckets[-1], index=1)
    store.put(0, short)
    with pytest.raises(WeightSyncError, match=r"version 0 is incomplete: received .*declared"):
        store.commit(0)


def test_buckets_outlive_the_process_that_sent_them(ray_session: None) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Sender:
        def send(self, store: ray.actor.ActorHandle) -> None:
            ray.get(store.begin.remote(0, 1), timeout=120)
            # large enough not to travel inside the call, where owning would not matter
            for bucket in pack([("w", torch.ones(1 << 18)), ("v", torch.ones(3))], 1 << 20):
                ray.get(store.put.remote(0, bucket), timeout=120)
            ray.get(store.commit.remote(0), timeout=120)

    store = WeightStoreActor.remote(keep=2)
    sender = Sender.remote()
    ray.get(sender.send.remote(store), timeout=120)
    ray.kill(sender)
    published = ray.get(store.published.remote(0), timeout=120)
    found = dict(item for ref in published.buckets for item in unpack(ray.get(ref, timeout=120)))
    assert found["w"].sum().item() == 1 << 18
    assert found["v"].tolist() == [1.0, 1.0, 1.0]
    ray.kill(store)


def test_a_store_is_placed_on_the_senders_node_when_it_has_room(ray_session: None) -> None:
    import ray

    node_id = ray.get_runtime_context().get_node_id()
    room = int(ray.nodes()[0]["Resources"]["object_store_memory"])
    with pytest.raises(ResourceError, match=r"3 versions of them are held at a time, the object store of node .* GiB"):
        place_store(node_id, room // 3 + 1, keep=3)
    store = place_store(node_id, room // 3, keep=3)
    assert is_alive(store)
    ray.kill(store)  # which does not wait for its end
    end = time.monotonic() + 30
    while is_alive(store):
        assert time.monotonic() < end, "the store outlives its end"
        time.sleep(0.05)
