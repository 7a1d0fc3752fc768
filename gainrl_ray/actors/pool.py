"""The engines of a run: started side by side, kept at one version, and fed with requests, whatever dies."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.actor import ActorHandle

from gainrl_ray.actors.broadcast import Broadcast, ReceiverGroup, Receivers
from gainrl_ray.actors.dispatch import GenerationFigures, Seat, check_requests, deal, grouped, token_count
from gainrl_ray.actors.engine_slot import EngineSlot, Target, settled
from gainrl_ray.actors.sync_figures import slowest
from gainrl_ray.config import Config
from gainrl_ray.errors import DeadlineError, EngineError, EngineStartError, GainrlError, ResourceError, WeightSyncError
from gainrl_ray.types import Completion, SampleRequest

TICK_S = 0.5  # how often engines are looked after while nothing arrives

logger = logging.getLogger(__name__)


class RolloutPool:
    """Lives inside the pipeline actor; one caller at a time drives it through start, sync and generate.

    An engine that dies, fails or stalls loses its requests to the others and is restarted, synced to the present
    version before it serves again. `rollout.max_engine_restarts` restarts in all are allowed.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._store: ActorHandle | None = None
        engines = config.rollout.engines
        self._slots = [EngineSlot(index, config) for index in range(engines)]
        self._threads = ThreadPoolExecutor(max_workers=engines, thread_name_prefix="engine-start")
        self._tasks: dict[int, tuple[Future[None], Target | None]] = {}
        self._target: Target | None = None
        self._unstored: Target | None = None  # on its way into the store, behind a broadcast
        self._receivers = ReceiverGroup(config.rollout.tensor_parallel_size)
        self._epoch = 0
        self._calls = 0
        self._restarts = 0
        self._waiting: deque[list[SampleRequest]] = deque()
        self._driving = threading.Lock()
        self._closed = False
        self.figures = GenerationFigures()

    def use_store(self, store: ActorHandle) -> None:
        """Take the weights of later syncs from this weight store."""
        self._store = store

    def start(self) -> None:
        """Start the engines that are not up side by side, for a run; wait for all, on a growing cluster for the first.

        Raises:
            ResourceError: the cluster has no room. EngineError, DeadlineError: an engine did not start.
        """
        with self._drive("start"):
            self._restarts = 0
            enough = 1 if self._config.ray.autoscaling else len(self._slots)
            self._tend_until(lambda: sum(slot.is_up for slot in self._slots) >= enough, "the start of engines")

    def sync(self, version: int) -> dict[str, float]:
        """Bring every engine that is up to `version`; those under restart follow by themselves.

        Returns the slowest engine's figures: `pull_s`, `update_s`, `verify_s` (seconds), `worst_difference` (nats,
        nan when not verified), `bytes`; and `seconds`, `engines` (that serve it).

        Raises:
            WeightSyncError: an engine's weights are not the learner's. EngineError, DeadlineError, ResourceError.
        """
        if self._store is None:
            raise EngineError(f"version {version} was asked and no weight store is known: call use_store first")
        with self._drive("sync"):
            started = time.monotonic()
            target = self._target = Target(self._epoch, version)
            self._tend_until(lambda: settled(self._slots, target), f"the update to version {version}")
            ray.get(self._store.release.remote(version), timeout=self._config.sync.deadline_s)
            serving = [slot.figures for slot in self._slots if slot.serves == target and slot.figures is not None]
            return {"seconds": time.monotonic() - started, **slowest(serving)}

    def receive(self, version: int, broadcast: Broadcast, announce: Callable[[Receivers | None], None]) -> bool:
        """Bring the engines that are up to `version` as ReceiverGroup.receive; those lost since are restarted.

        Others take the version from the store, which gets it next (`stored`). Raises as `sleep`.
        """
        with self._drive("receive"):
            target = self._target = self._unstored = Target(self._epoch, version)
            self._take_up()
            idle = [slot for slot in self._slots if slot.is_up and slot.index not in self._tasks]
            self._on_each(idle, lambda slot: slot.ping())
            up = [slot for slot in idle if slot.is_up]
            return self._receivers.receive(up, target, broadcast, announce, self._threads)

    def stored(self, version: int) -> None:
        """Learn that the weight store holds `version`; called from any thread."""
        if self._unstored is not None and self._unstored.version <= version:
            self._unstored = None

    def sleep(self) -> None:
        """Make every engine give its memory back until the next sync; one that cannot is ended, and so gives it back.

        Engines that are coming up are waited for, and none is started.

        Raises:
            EngineError: an engine was lost more often than allowed. DeadlineError: one did not come up in time.
        """
        with self._drive("sleep"):
            limit_s = self._once_s()
            if wait([task for task, _ in self._tasks.values()], timeout=limit_s).not_done:
                raise DeadlineError(f"waited {limit_s:.0f} s for engines that come up; engines: {self.describe()}")
            self._take_up()
            self._on_each(self._slots, lambda slot: slot.sleep())

    def invalidate(self) -> None:
        """Make every engine stale: the next sync loads the weights again, also for an equal version number."""
        self._epoch += 1
        self._target = None

    def generate(
        self, requests: Sequence[SampleRequest], version: int, deadline_s: float
    ) -> Generator[tuple[str, Completion], None, None]:
        """(request id, completion) as they finish, each exactly once; closing the iterator aborts the rest.

        Requests with the same prompt go to the same engine, for its prefix cache.

        Raises:
            EngineError: the engines do not serve `version`, or an engine was lost more often than allowed.
            DeadlineError: not all completions came within `deadline_s` seconds.
        """
        with self._drive("generate"):
            started = time.monotonic()
            served = self._target.version if self._target else None
            check_requests(requests, self._config.sequence_tokens, version, served)
            self._calls += 1
            prefix = f"{self._calls}/"
            self.figures = GenerationFigures()
            self._waiting = grouped([replace(request, request_id=prefix + request.request_id) for request in requests])
            try:
                for request_id, completion in self._completions(len(requests), version, started, deadline_s):
                    yield request_id.removeprefix(prefix), completion
            finally:
                self.figures.seconds = time.monotonic() - started
                self._abort()

    def describe(self) -> list[dict[str, Any]]:
        """Per engine: id, node, pid, log, state, version, outstanding requests, restarts."""
        return [slot.describe(self._target) for slot in self._slots]

    def close(self) -> None:
        """End all engines and give their resources back."""
        self._closed = True
        for slot in self._slots:
            slot.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- engines -------------------------------------------------------------------------------------------------

    @contextmanager
    def _drive(self, what: str) -> Iterator[None]:
        if not self._driving.acquire(blocking=False):
            raise EngineError(f"{what}: another start, sync or generate is under way; end it first")
        try:
            yield
        finally:
            self._driving.release()

    def _tend(self) -> None:
        """Look after every slot: take up what its task came to, and start the task that it needs. Raises as `_lost`."""
        if self._closed:
            raise EngineError("the pool of engines is closed")
        self._take_up()
        target = None if self._target == self._unstored else self._target
        for slot in self._slots:
            behind = not slot.is_up or (target is not None and slot.serves != target)
            if behind and slot.index not in self._tasks:
                self._tasks[slot.index] = (self._threads.submit(slot.bring_up, target, self._store), target)

    def _take_up(self) -> None:
        """What the ended tasks came to. Raises as `_lost`."""
        for slot in self._slots:
            task = self._tasks.get(slot.index)
            if task is not None and task[0].done():
                del self._tasks[slot.index]
                if (error := task[0].exception()) is not None:
                    self._lost(slot, error, outdated=task[1] != self._target)

    def _on_each(self, slots: Sequence[EngineSlot], act: Callable[[EngineSlot], None]) -> None:
        """Do this with all of `slots` at once; those that cannot are lost. Raises as `_lost`."""
        for slot, done in [(slot, self._threads.submit(act, slot)) for slot in slots]:
            if (error := done.exception()) is not None:
                self._lost(slot, error)

    def _lost(self, slot: EngineSlot, error: BaseException, *, outdated: bool = False) -> None:
        """Take the requests of a lost engine back and have it restarted.

        Raises:
            GainrlError: a restart does not cure this, or no restart is left.
        """
        back = list(slot.outstanding.values())
        self._waiting.extendleft(grouped(back))
        self.figures.resent += len(back)
        slot.stop()
        if outdated and isinstance(error, WeightSyncError):
            return
        others = any(other.is_up for other in self._slots if other is not slot)
        if isinstance(error, ResourceError) and self._config.ray.autoscaling and others:
            logger.warning("%s; waiting on", error)
            return
        if isinstance(error, WeightSyncError | ResourceError) or not isinstance(error, GainrlError):
            raise error
        allowed = self._config.rollout.max_engine_restarts
        if self._restarts >= (1 if allowed and isinstance(error, EngineStartError) and not others else allowed):
            why = f"rollout.max_engine_restarts is {allowed}, and a start that fails is tried once more"
            raise EngineError(f"{error}\nno restart left: {why}") from error
        self._restarts += 1
        slot.restarts += 1
        logger.warning("restart %d of %d, %d requests go elsewhere: %s", self._restarts, allowed, len(back), error)

    def _tend_until(self, done: Callable[[], bool], what: str) -> None:
        """Tend the slots until `done`; placement, start and update each end at their own deadline before this one."""
        limit_s = self._once_s() * (self._config.rollout.max_engine_restarts + 1)
        started = time.monotonic()
        while True:
            self._tend()
            if done():
                return
            if time.monotonic() - started > limit_s:
                raise DeadlineError(f"waited {limit_s:.0f} s for {what}; engines: {self.describe()}")
            wait([task for task, _ in self._tasks.values()], timeout=TICK_S, return_when=FIRST_COMPLETED)

    def _once_s(self) -> float:
        """Longest time that an engine takes to come up: placement, start and update."""
        return 2 * self._config.rollout.start_deadline_s + self._config.sync.deadline_s

    # -- requests ------------------------------------------------------------------------------------------------

    def _completions(
        self, count: int, version: int, started: float, deadline_s: float
    ) -> Iterator[tuple[str, Completion]]:
        """(pool's request id, completion), `count` of them."""
        while self.figures.completions < count:
            self._tend()
            self._dispatch(version)
            for slot, request_id, completion in self._collect():
                request = slot.outstanding.pop(request_id, None)
                if request is None:
                    continue
                self.figures.count(request, completion)
                yield request_id, completion
            if self.figures.completions < count and time.monotonic() - started > deadline_s:
                raise DeadlineError(
                    f"{count - self.figures.completions} of {count} completions of version {version} did not come "
                    f"within {deadline_s:.0f} s; engines: {self.describe()}"
                )

    def _dispatch(self, version: int) -> None:
        """Hand waiting requests to the engines that serve."""
        seats = [
            Seat(index=slot.index, requests=len(slot.outstanding), tokens=token_count([*slot.outstanding.values()]))
            for slot in self._slots
            if slot.serves == self._target and not slot.suspect and slot.index not in self._tasks
        ]
        most = self._config.rollout.max_num_seqs
        for index, batch in deal(self._waiting, seats, most + max(8, most // 4)).items():
            self._slots[index].submit(batch, version)

    def _collect(self) -> Iterator[tuple[EngineSlot, str, Completion]]:
        """What arrives within a tick; engines found dead or stalled are given up."""
        busy = [slot for slot in self._slots if slot.outstanding and slot.index not in self._tasks]
        refs = [ref for slot in busy for ref in slot.pending()]
        if not refs:
            wait([task for task, _ in self._tasks.values()], timeout=TICK_S, return_when=FIRST_COMPLETED)
            return
        ray.wait(refs, num_returns=1, timeout=TICK_S)
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for slot in busy:
            try:
                polled = slot.collect(ready)
            except GainrlError as error:
                self._lost(slot, error)
                continue
            for request_id, completion in polled.finished if polled else ():
                yield slot, request_id, completion

    def _abort(self) -> None:
        """Free the engines of what is left of a call."""
        self._waiting.clear()
        for slot in self._slots:
            try:
                slot.abort()
            except GainrlError as error:
                logger.warning("given up: %s", error)
                slot.stop()
