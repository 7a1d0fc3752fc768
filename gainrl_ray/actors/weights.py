"""Published weights: the store that owns their buckets in Ray's object store, and the way into it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gainrl_ray.actors.buckets import StreamTotal, WeightBucket
from gainrl_ray.actors.contents import Contents
from gainrl_ray.errors import ResourceError, StaleAttemptError, WeightSyncError

ANSWER_S = 30.0  # for a call that only looks something up

_offered: dict[str, WeightBucket] = {}
"""Buckets of this process that a store is to fetch, by ticket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What an engine that serves a version is compared with: the learner's log-probabilities of some tokens at
    temperature 1, and the contents of its weights."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # logprobs[t] is of token t given those before, nats; logprobs[0] is not used
    rounded: tuple[tuple[float, ...], ...] = ()  # the same under random rounding errors, pass by pass
    contents: tuple[Contents, ...] = ()  # of all weights; none = not compared

    def __post_init__(self) -> None:
        counts = [len(values) for values in (self.logprobs, *self.rounded)]
        if len(self.token_ids) < 2 or set(counts) != {len(self.token_ids)}:
            raise ValueError(
                f"received {len(self.token_ids)} token ids and {counts} log-probabilities; accepted are at least 2 "
                "token ids with one log-probability each in every pass, the first of them 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A committed version, as the store hands it to engines."""

    version: int
    buckets: tuple[ObjectRef, ...]
    probe: Probe | None
    total: StreamTotal


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

    The class behind `WeightStoreActor`. A learner calls `begin`, `fetch` or `put` for each bucket, `commit`; engines
    read `published` and check what they read. At most `keep` versions are held: beginning one more frees the oldest.
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
        """Take a bucket that came with the call into the object store, owned by this process.

        Raises:
            WeightSyncError: the version is not open, or the bucket is not the next one.
        """
        self._add(version, bucket, None)

    def fetch(self, version: int, sender: ActorHandle, ticket: str, deadline_s: float) -> None:
        """Take the bucket that the process of `sender` offers under `ticket`, owned by this process.

        The sender's process writes its answer from where the weights lie into the object store: they are copied
        once, and belong to whoever called. Raises as `put`, and when the sender does not answer in time.
        """
        answer = sender.__ray_call__.remote(hand_over, ticket)
        try:
            bucket: Any = ray.get(answer, timeout=deadline_s)
        except GetTimeoutError as error:
            raise WeightSyncError(
                f"version {version}: the learner did not hand a bucket over within {deadline_s:.0f} s"
            ) from error
        self._add(version, bucket, answer)

    def _add(self, version: int, bucket: WeightBucket, stored: ObjectRef | None) -> None:
        held = self._versions.get(version)
        if held is None or held.committed:
            raise WeightSyncError(f"version {version} is not open: call begin first; {self._holdings()}")
        if bucket.index != len(held.buckets) or held.total is not None:
            raise WeightSyncError(
                f"bucket {bucket.index} of version {version} came where {len(held.buckets)} was due"
                + ("; the stream had ended" if held.total else "")
            )
        held.buckets.append(ray.put(bucket) if stored is None else stored)
        held.names.extend(entry.name for entry in bucket.entries)
        held.size += bucket.size
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


def offer(ticket: str, bucket: WeightBucket) -> None:
    """Keep a bucket for the store that will `fetch` it from this process."""
    _offered[ticket] = bucket


def withdraw(tickets: Iterable[str]) -> None:
    """Forget those of the offers that were not fetched."""
    for ticket in tickets:
        _offered.pop(ticket, None)


def hand_over(_actor: Any, ticket: str) -> WeightBucket:
    """The offered bucket. Raises WeightSyncError when there is none of this ticket any more."""
    try:
        return _offered.pop(ticket)
    except KeyError:
        raise WeightSyncError(f"bucket {ticket} is not offered any more: its publication has failed") from None


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
