"""A version of the weights by broadcast: when it is used, what is announced, and the engines that take part.

The weight store stays the truth: it is filled with every version, and serves whoever missed a broadcast.
"""

import logging
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from gainrl_ray.actors.buckets import AnnouncedBucket, Way
from gainrl_ray.actors.weights import Probe
from gainrl_ray.config import Config

if TYPE_CHECKING:
    from gainrl_ray.actors.engine_slot import EngineSlot, Target

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """A version that a learner is about to send to all engines at once."""

    group: str  # name of the group that the learner belongs to already, empty for none
    address: str  # where another group would be formed
    port: int
    way: Way
    layout: tuple[AnnouncedBucket, ...]
    probe: Probe | None


class Receivers(NamedTuple):
    """Who takes part in a broadcast."""

    group: str
    workers: int  # of all engines; they have the ranks from 1 on, the learner has rank 0


class Place(NamedTuple):
    """An engine's place in a group that is to be formed."""

    first_rank: int  # of the engine's workers
    size: int  # of the group


def way(config: Config) -> Way:
    """How a broadcast travels: as memory that is shared, or over NCCL where both sides have GPUs, else over gloo."""
    if config.fast_sync == "ipc":
        return "ipc"
    return "nccl" if config.learner.gpus_per_worker > 0 and config.rollout.gpus_per_engine > 0 else "gloo"


def stall_s(config: Config) -> float:
    """Longest wait for a member or a bucket, s: two of them fit into the wait for the end of an attempt."""
    return min(config.sync.deadline_s, config.rollout.stall_deadline_s / 3)


class ReceiverGroup:
    """The engines of the present group; engines that were lost, that came or that failed make it another one."""

    def __init__(self, workers_per_engine: int) -> None:
        self._workers = workers_per_engine
        self._members: tuple[str, ...] = ()
        self._name = ""
        self._is_trusted = True

    def receive(
        self,
        slots: "Sequence[EngineSlot]",
        target: "Target",
        broadcast: Broadcast,
        announce: Callable[[Receivers | None], None],
        threads: ThreadPoolExecutor,
    ) -> bool:
        """Whether all of `slots` serve `target` after the broadcast, and there are any; the others are stale.

        `announce` is called with those who take part, None for nobody, upon which the learner begins. When a
        broadcast fails that was to be verified, there is no other: its bytes may have been wrong.
        """
        if not slots or not self._is_trusted:
            announce(None)
            return False
        members = tuple(slot.identity for slot in slots)
        is_new = members != self._members or broadcast.group != self._name
        if is_new:
            self._members, self._name = members, uuid.uuid4().hex
        workers = len(slots) * self._workers
        announce(Receivers(self._name, workers))
        places = [Place(1 + number * self._workers, 1 + workers) if is_new else None for number in range(len(slots))]
        calls = [
            threads.submit(slot.receive, target, broadcast, place) for slot, place in zip(slots, places, strict=True)
        ]
        errors = [error for call in calls if (error := call.exception()) is not None]
        if errors:
            self._members, self._is_trusted = (), broadcast.probe is None
            logger.warning(
                "%d of %d engines missed the broadcast of version %d and take it from the weight store: %s",
                len(errors),
                len(slots),
                target.version,
                errors[0],
            )
        return not errors
