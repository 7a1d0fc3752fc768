"""A version's way from a learner into a real engine, stage by stage, for measuring it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import torch

from gainrl_ray.actors.broadcast import Broadcast, ReceiverGroup, Receivers, stall_s
from gainrl_ray.actors.buckets import pack
from gainrl_ray.actors.engine_slot import EngineSlot, Target
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.session import session
from gainrl_ray.actors.transport import BroadcastSender, StoreSender
from gainrl_ray.actors.weights import WeightStoreActor
from gainrl_ray.config import Config
from gainrl_ray.errors import BenchmarkError
from gainrl_ray.model.loading import load_model, weights_as_on_disk

COPY, PUT, PACK, SEND, PULL, LOAD, BROADCAST = "copy", "put", "pack", "send", "pull", "load", "broadcast"


class _Learner:
    """A process that holds a model's weights and sends them, as a learner rank does."""

    def __init__(self, config: Config, store: Any) -> None:
        model = load_model(config.model)
        self._weights = list(weights_as_on_disk(model))
        self._bucket_bytes = int(config.sync.bucket_mib * 2**20)
        limit_s = config.sync.deadline_s
        self._sender = StoreSender(
            Remote(store, "weight store", limit_s), bucket_bytes=self._bucket_bytes, deadline_s=limit_s
        )
        self._broadcaster = BroadcastSender(
            ray.util.get_node_ip_address(), torch.device("cpu"), "gloo", stall_s(config)
        )
        self._pieces = [piece for bucket in pack(self._weights, 2**62) for piece in bucket.pieces]
        self._copies = [piece.copy() for piece in self._pieces]

    def size(self) -> int:
        """Bytes of a version."""
        return sum(piece.nbytes for piece in self._pieces)

    def announce(self) -> Broadcast | None:
        """The broadcast that `broadcast` sends, of the weights that were sent before."""
        return self._broadcaster.announce(self._sender.layout, None)

    def broadcast(self, receivers: Receivers) -> bool:
        """Whether the weights went out."""
        return self._broadcaster.send(receivers, self._weights)

    def work(self, stage: str, version: int) -> float:
        """Seconds of one stage."""
        started = time.perf_counter()
        if stage == COPY:
            for piece, copy in zip(self._pieces, self._copies, strict=True):
                np.copyto(copy, piece)
        elif stage == PUT:
            stored = ray.put(self._pieces)
            seconds = time.perf_counter() - started
            del stored  # frees the memory for the next round
            return seconds
        elif stage == PACK:
            for _ in pack(self._weights, self._bucket_bytes):
                pass
        else:
            self._sender.send(version, 0, self._weights, None)
        return time.perf_counter() - started


_LearnerActor: Any = ray.remote(num_cpus=0, max_concurrency=2)(_Learner)  # pyright: ignore[reportCallIssue]


def timed_stages(config: Config, rounds: int) -> tuple[int, dict[str, list[float]]]:
    """(bytes of a version, seconds of every stage in each of `rounds` rounds), after one that is not counted.

    COPY is a copy of the weights within the learner, PUT one into the object store: what the machine can do. PACK
    makes the buckets, without sending them; SEND makes and sends them; PULL is an engine's wait for buckets, LOAD its
    loading of them. BROADCAST is the whole way without the store, from the gather to a loaded engine.
    """
    with session(config.ray), _parts(config) as (store, learner, engine):
        limit_s = config.rollout.start_deadline_s
        size: Any = ray.get(learner.size.remote(), timeout=limit_s)
        engine.bring_up(None, None)
        seconds: dict[str, list[float]] = {stage: [] for stage in (COPY, PUT, PACK, SEND, PULL, LOAD, BROADCAST)}
        receivers, threads = ReceiverGroup(1), ThreadPoolExecutor(1)
        for version in range(rounds + 1):
            found: dict[str, Any] = {
                stage: ray.get(learner.work.remote(stage, version), timeout=limit_s)
                for stage in (COPY, PUT, PACK, SEND)
            }
            engine.bring_up(Target(0, version), store)
            ray.get(store.release.remote(version), timeout=limit_s)
            assert engine.figures is not None
            found |= {PULL: engine.figures.pull_s, LOAD: engine.figures.update_s}
            announced: Any = ray.get(learner.announce.remote(), timeout=limit_s)
            started = time.perf_counter()
            if not receivers.receive([engine], Target(0, version), announced, learner.broadcast.remote, threads):
                raise BenchmarkError(f"the broadcast of round {version} did not reach the engine: its log says why")
            found[BROADCAST] = time.perf_counter() - started
            for stage, value in found.items() if version else ():
                seconds[stage].append(value)
        return size, seconds


@contextmanager
def _parts(config: Config) -> Iterator[tuple[Any, Any, EngineSlot]]:
    """A weight store, a learner and an engine that is not started yet, ended with the block."""
    store = WeightStoreActor.remote()
    learner = _LearnerActor.remote(config, store)
    engine = EngineSlot(0, config)
    try:
        yield store, learner, engine
    finally:
        engine.stop()
        ray.kill(learner)
        ray.kill(store)
