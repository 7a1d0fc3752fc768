"""How a version of the weights leaves the learner: into the store, and on the fast path to all engines at once."""

import logging
import socket
from collections import deque
from collections.abc import Iterable
from itertools import count

import ray
import torch
from ray import ObjectRef
from torch import Tensor

from gainrl_ray.actors.broadcast import Broadcast, Receivers
from gainrl_ray.actors.buckets import AnnouncedBucket, Way, WeightBucket, pack
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.shared_memory import LEARNER
from gainrl_ray.actors.weight_group import WeightGroup
from gainrl_ray.actors.weights import Probe, offer, withdraw
from gainrl_ray.errors import WeightSyncError

IN_FLIGHT = 2
"""Buckets that the store may be taking while the next one is gathered."""
MOST_FAILURES = 2
"""Broadcasts that may fail in a row before no other is tried."""

logger = logging.getLogger(__name__)


class StoreSender:
    """Brings versions into the weight store: the store fetches a bucket while the next one is gathered.

    In an actor the store fetches buckets from where the weights lie; another process sends them with its calls.
    """

    def __init__(self, store: Remote, *, bucket_bytes: int, deadline_s: float) -> None:
        self._store, self._bucket_bytes, self._deadline_s = store, bucket_bytes, deadline_s
        context = ray.get_runtime_context()
        self._self = context.current_actor if context.get_actor_id() else None
        self._tickets = map(str, count())
        self.layout: tuple[AnnouncedBucket, ...] = ()
        """The buckets of the version sent last."""

    def send(self, version: int, attempt: int, named: Iterable[tuple[str, Tensor]], probe: Probe | None) -> None:
        """Publish `version`; when this returns the weights may change.

        Raises as WeightStore.begin, fetch and commit, and DeadlineError.
        """
        self._store.begin(version, attempt)
        under_way: deque[tuple[ObjectRef, str]] = deque()
        layout: list[AnnouncedBucket] = []
        try:
            for bucket in pack(named, self._bucket_bytes):
                if len(under_way) == IN_FLIGHT:
                    self._store.result(under_way[0][0], "a bucket")
                    under_way.popleft()
                under_way.append(self._give(version, bucket))
                layout.append(AnnouncedBucket(index=bucket.index, entries=bucket.entries))
            for taken, _ in under_way:
                self._store.result(taken, "a bucket")
        finally:
            withdraw(ticket for _, ticket in under_way)
        self._store.commit(version, probe)
        self.layout = tuple(layout)

    def _give(self, version: int, bucket: WeightBucket) -> tuple[ObjectRef, str]:
        ticket = next(self._tickets)
        if self._self is None:
            return self._store.handle.put.remote(version, bucket), ticket
        offer(ticket, bucket)
        return self._store.handle.fetch.remote(version, self._self, ticket, self._deadline_s), ticket


class BroadcastSender:
    """Brings versions to the workers of all engines at once."""

    def __init__(self, address: str, device: torch.device, way: Way, stall_s: float) -> None:
        """`address`: this node's. `device`: of the packed buffers. `stall_s`: longest wait for a member or a bucket."""
        self._address, self._device, self._stall_s = address, device, stall_s
        self._way: Way = way
        self._layout: tuple[AnnouncedBucket, ...] = ()
        self._listener: socket.socket | None = None
        self._group: WeightGroup | None = None
        self._name = ""
        self._failures = 0

    def announce(self, layout: tuple[AnnouncedBucket, ...], probe: Probe | None) -> Broadcast | None:
        """What the engines must know before `send`; None while the layout is not known, and after failures."""
        if not layout or self._failures == MOST_FAILURES:
            return None
        self._layout = layout
        if self._listener is None:
            family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
            self._listener = socket.create_server((self._address, 0), family=family)
        return Broadcast(
            group=self._name,
            address=self._address,
            port=self._listener.getsockname()[1],
            way=self._way,
            layout=layout,
            probe=probe,
        )

    def send(self, receivers: Receivers, named: Iterable[tuple[str, Tensor]]) -> bool:
        """Whether all tensors went out as announced; if not, the group is gone and receivers get an error."""
        try:
            if receivers.group != self._name:
                self._form(receivers)
            self._stream(named)
        except Exception as error:  # whatever it is, the store is the other way
            self._failures += 1
            ending = ", and no other is tried" if self._failures == MOST_FAILURES else ""
            logger.warning("a broadcast of weights failed, engines take them from the store%s: %s", ending, error)
            self.close()
            return False
        finally:
            if self._way == "ipc" and self._device.type == "cuda":  # the engines want the memory for their caches
                torch.cuda.ipc_collect()
                torch.cuda.empty_cache()
        self._failures = 0
        return True

    def close(self) -> None:
        """Leave the group."""
        if self._group is not None:
            self._group.close()
        self._group, self._name = None, ""

    def _form(self, receivers: Receivers) -> None:
        self.close()
        listener, self._listener = self._listener, None
        assert listener is not None, "announce comes first"
        self._group = WeightGroup(
            self._address,
            listener.getsockname()[1],
            rank=LEARNER,
            size=1 + receivers.workers,
            device=self._device,
            way=self._way,
            stall_s=self._stall_s,
            listener=listener,
        )
        self._name = receivers.group

    def _stream(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Pack and send bucket by bucket, in one buffer."""
        assert self._group is not None
        present = ((name, tensor) for name, tensor in named if tensor is not None)
        whole = self._group.packing_buffer(max(bucket.size for bucket in self._layout))
        for bucket in self._layout:
            buffer = whole[: bucket.size]
            for name, room in bucket.tensors(buffer):
                found, tensor = next(present, ("nothing", room))
                if (found, tensor.dtype, tensor.shape) != (name, room.dtype, room.shape):
                    raise WeightSyncError(
                        f"{found} {tensor.dtype} {list(tensor.shape)} came where {name} {room.dtype} "
                        f"{list(room.shape)} was announced"
                    )
                room.copy_(tensor)
            self._group.broadcast(buffer)
