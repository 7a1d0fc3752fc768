"""How a version of the weights leaves the learner."""

from collections import deque
from collections.abc import Iterable
from itertools import count

import ray
from ray import ObjectRef
from torch import Tensor

from gainrl_ray.actors.buckets import WeightBucket, pack
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.weights import Probe, offer, withdraw

IN_FLIGHT = 2
"""Buckets that the store may be taking while the next one is gathered."""


class StoreSender:
    """Brings versions into the weight store: the store fetches a bucket while the next one is gathered.

    In an actor the store fetches buckets from where the weights lie; another process sends them with its calls.
    """

    def __init__(self, store: Remote, *, bucket_bytes: int, deadline_s: float) -> None:
        self._store, self._bucket_bytes, self._deadline_s = store, bucket_bytes, deadline_s
        context = ray.get_runtime_context()
        self._self = context.current_actor if context.get_actor_id() else None
        self._tickets = map(str, count())

    def send(self, version: int, attempt: int, named: Iterable[tuple[str, Tensor]], probe: Probe | None) -> None:
        """Publish `version`; when this returns the weights may change.

        Raises as WeightStore.begin, fetch and commit, and DeadlineError.
        """
        self._store.begin(version, attempt)
        under_way: deque[tuple[ObjectRef, str]] = deque()
        try:
            for bucket in pack(named, self._bucket_bytes):
                if len(under_way) == IN_FLIGHT:
                    self._store.result(under_way[0][0], "a bucket")
                    under_way.popleft()
                under_way.append(self._give(version, bucket))
            for taken, _ in under_way:
                self._store.result(taken, "a bucket")
        finally:
            withdraw(ticket for _, ticket in under_way)
        self._store.commit(version, probe)

    def _give(self, version: int, bucket: WeightBucket) -> tuple[ObjectRef, str]:
        ticket = next(self._tickets)
        if self._self is None:
            return self._store.handle.put.remote(version, bucket), ticket
        offer(ticket, bucket)
        return self._store.handle.fetch.remote(version, self._self, ticket, self._deadline_s), ticket
