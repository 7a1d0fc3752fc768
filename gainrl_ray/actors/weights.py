"""Published weights: packing tensors into buckets, and the store that owns the buckets in Ray's object store."""

import math
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gainrl_ray.errors import ResourceError, StaleAttemptError, WeightSyncError

ANSWER_S = 30.0  # for a call that only looks something up
ALIGNMENT = 64  # bytes: every tensor starts where any dtype may be viewed


class TensorEntry(NamedTuple):
    """Where a tensor lies in a bucket's buffer."""

    name: str
    dtype: str  # torch's name without the module: "bfloat16"
    shape: tuple[int, ...]
    offset: int  # bytes
    size: int  # bytes


class StreamTotal(NamedTuple):
    """What a whole stream of buckets holds; its last bucket declares it."""

    buckets: int
    names: int
    size: int  # bytes of tensors, without alignment


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBucket:
    """Some tensors of a model, as bytes one after the other."""

    index: int  # place in the stream, from 0
    entries: tuple[TensorEntry, ...]
    buffer: np.ndarray  # [bytes] uint8
    checksum: int  # crc32 of the buffer
    total: StreamTotal | None = None  # set on the last bucket of a stream only

    def check(self) -> None:
        """Nothing; raises WeightSyncError when the buffer is not the one that was packed."""
        found = zlib.crc32(self.buffer.data)
        if found != self.checksum:
            names = f"{self.entries[0].name} .. {self.entries[-1].name}"
            raise WeightSyncError(
                f"bucket {self.index} ({names}, {self.buffer.nbytes} bytes) arrived with checksum {found:#010x}, "
                f"it was packed with {self.checksum:#010x}: the bytes changed on the way; publish the version again"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The learner's log-probabilities of a fixed token sequence, at temperature 1."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # logprobs[t] is of token t given those before, nats; logprobs[0] is not used

    def __post_init__(self) -> None:
        if len(self.token_ids) < 2 or len(self.logprobs) != len(self.token_ids):
            raise ValueError(
                f"received {len(self.token_ids)} token ids and {len(self.logprobs)} log-probabilities; accepted are "
                "at least 2 token ids with one log-probability each, the first of them 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A committed version, as the store hands it to engines."""

    version: int
    buckets: tuple[ObjectRef, ...]
    probe: Probe | None
    total: StreamTotal


def pack(named: Iterable[tuple[str, torch.Tensor | None]], bucket_bytes: int) -> Iterator[WeightBucket]:
    """Buckets of at most `bucket_bytes` that hold copies of all tensors, in order; a larger tensor goes alone.

    Tensors that are None (ranks that do not hold them) are passed over, so every rank can drive the same gather.
    The bytes of a tensor are copied before the next one is asked for: a gathered parameter may be freed then.
    """
    stream = _Stream(bucket_bytes)
    full: WeightBucket | None = None
    for name, tensor in named:
        if tensor is None:
            continue
        if stream.has_no_room(tensor):
            if full is not None:
                yield full
            full = stream.close_bucket()
        stream.add(name, tensor)
    if full is not None:
        yield full
    if stream.entries:
        yield stream.close_bucket(last=True)


def unpack(bucket: WeightBucket) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of every entry; the tensors are views of the buffer and must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        flat = torch.from_numpy(bucket.buffer)
    for entry in bucket.entries:
        piece = flat[entry.offset : entry.offset + entry.size]
        yield entry.name, piece.view(getattr(torch, entry.dtype)).view(entry.shape)


class _Stream:
    """The bucket being filled, and what went before it."""

    def __init__(self, bucket_bytes: int) -> None:
        self._bucket_bytes = bucket_bytes
        self.entries: list[TensorEntry] = []
        self._buffer = np.empty(0, dtype=np.uint8)
        self._index = self._names = self._size = 0

    def has_no_room(self, tensor: torch.Tensor) -> bool:
        return bool(self.entries) and self._used() + tensor.numel() * tensor.element_size() > self._buffer.nbytes

    def add(self, name: str, tensor: torch.Tensor) -> None:
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        if not self.entries:
            self._buffer = np.empty(max(self._bucket_bytes, _aligned(flat.nbytes)), dtype=np.uint8)
        offset = self._used()
        dtype = str(tensor.dtype).removeprefix("torch.")
        self.entries.append(TensorEntry(name, dtype, tuple(tensor.shape), offset, flat.nbytes))
        self._buffer[offset : offset + flat.nbytes] = flat
        self._buffer[offset + flat.nbytes : self._used()] = 0

    def close_bucket(self, *, last: bool = False) -> WeightBucket:
        index, entries = self._index, tuple(self.entries)
        self._index += 1
        self._names += len(entries)
        self._size += sum(entry.size for entry in entries)
        total = StreamTotal(buckets=self._index, names=self._names, size=self._size) if last else None
        buffer = self._buffer[: self._used()]
        self.entries = []
        return WeightBucket(index=index, entries=entries, buffer=buffer, checksum=zlib.crc32(buffer.data), total=total)

    def _used(self) -> int:
        return _aligned(self.entries[-1].offset + self.entries[-1].size) if self.entries else 0


def _aligned(size: int) -> int:
    return math.ceil(size / ALIGNMENT) * ALIGNMENT


@dataclass(slots=True)
class _Version:
    """A version under way or committed."""

    attempt: int
    buckets: list[ObjectRef] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    size: int = 0
    total: StreamTotal | None = None
    probe: Probe | None = None
    committed: bool = False


class WeightStore:
    """Owns the buckets of the newest versions, so that they outlive the learners that sent them.

    The class behind `WeightStoreActor`. A learner calls `begin`, `put` for each bucket, `commit`; engines read
    `published`. At most `keep` versions are held: beginning one more frees the oldest.
    """

    def __init__(self, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep is the number of versions held, at least 1; received {keep}")
        self._keep = keep
        self._attempt = -1
        self._versions: dict[int, _Version] = {}

    def begin(self, version: int, attempt: int) -> None:
        """Open `version` for buckets; a newer attempt discards all that an older one published.

        Raises:
            StaleAttemptError: a newer learner gang has published meanwhile.
        """
        if attempt < self._attempt:
            raise StaleAttemptError(
                f"attempt {attempt} began version {version}, attempt {self._attempt} is running: this gang was replaced"
            )
        if attempt > self._attempt:
            self._attempt, self._versions = attempt, {}
        self._versions.pop(version, None)
        self._versions = {number: held for number, held in self._versions.items() if held.committed}
        while len(self._versions) >= self._keep:
            del self._versions[min(self._versions)]
        self._versions[version] = _Version(attempt)

    def put(self, version: int, bucket: WeightBucket) -> None:
        """Take a bucket into the object store, owned by this process.

        Raises:
            WeightSyncError: the version is not open, or the bucket is damaged or not the next one.
        """
        held = self._versions.get(version)
        if held is None or held.committed:
            raise WeightSyncError(f"version {version} is not open: call begin first; {self._holdings()}")
        if bucket.index != len(held.buckets) or held.total is not None:
            raise WeightSyncError(
                f"bucket {bucket.index} of version {version} came where {len(held.buckets)} was due"
                + ("; the stream had ended" if held.total else "")
            )
        bucket.check()
        held.buckets.append(ray.put(bucket))
        held.names.extend(entry.name for entry in bucket.entries)
        held.size += sum(entry.size for entry in bucket.entries)
        held.total = bucket.total

    def commit(self, version: int, probe: Probe | None = None) -> None:
        """Make `version` the latest.

        Raises:
            WeightSyncError: buckets, names or bytes are missing against what the last bucket declared, or a name
                came twice.
        """
        held = self._versions.get(version)
        if held is None:
            raise WeightSyncError(f"version {version} was never begun; {self._holdings()}")
        found = StreamTotal(buckets=len(held.buckets), names=len(set(held.names)), size=held.size)
        if held.total is None or found != held.total:
            raise WeightSyncError(
                f"version {version} is incomplete: received {found}, declared {held.total or 'nothing, no last bucket'}"
            )
        held.probe, held.committed = probe, True

    def latest(self) -> int | None:
        """The newest committed version; None before the first."""
        return max((number for number, held in self._versions.items() if held.committed), default=None)

    def published(self, version: int) -> Published:
        """The committed `version`. Raises WeightSyncError when it is not held."""
        held = self._versions.get(version)
        if held is None or not held.committed or held.total is None:
            raise WeightSyncError(f"version {version} is not in the weight store; {self._holdings()}")
        return Published(version=version, buckets=tuple(held.buckets), probe=held.probe, total=held.total)

    def buckets(self, version: int) -> list[ObjectRef]:
        """References to the buckets of the committed `version`, in order. Raises as `published`."""
        return list(self.published(version).buckets)

    def release(self, version: int) -> None:
        """Free the versions older than `version`: every engine has confirmed it."""
        self._versions = {number: held for number, held in self._versions.items() if number >= version}

    def _holdings(self) -> str:
        committed = sorted(number for number, held in self._versions.items() if held.committed)
        return f"it holds {committed} of attempt {self._attempt} and keeps {self._keep}"


WeightStoreActor: Any = ray.remote(num_cpus=0)(WeightStore)


def place_store(node_id: str, version_bytes: int, keep: int) -> ActorHandle:
    """A weight store on this node: that of the learner that sends, never a head that has no room for weights.

    Raises:
        ResourceError: the node's object store cannot hold `keep` versions.
    """
    node = next(node for node in ray.nodes() if node["NodeID"] == node_id)
    room = node["Resources"].get("object_store_memory", 0.0)
    if keep * version_bytes > room:
        raise ResourceError(
            f"the weights are {version_bytes / 2**30:.3g} GiB and {keep} versions of them are held at a time, the "
            f"object store of node {node['NodeManagerAddress']} has {room / 2**30:.3g} GiB: start Ray there with a "
            "larger --object-store-memory (ray.object_store_gib for an own local Ray), or lower rollout.max_staleness"
        )
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=True)
    return WeightStoreActor.options(scheduling_strategy=strategy).remote(keep=keep)


def is_alive(store: ActorHandle) -> bool:
    """Whether the store answers."""
    try:
        ray.get(store.latest.remote(), timeout=ANSWER_S)
    except RayError:
        return False
    return True
