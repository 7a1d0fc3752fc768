"""Lanes: processes beside the driver's that do runs one after another; one that dies takes no other with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from gainrl_ray.actors.run import Pipelines

CLOSE_S = 120.0
"""Longest wait for the engines of a lane to end by themselves."""


class _LaneProcess:
    """Two threads: one does the runs, the other hears of a stop."""

    def __init__(self) -> None:
        self._pipelines = Pipelines()

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What `work(*arguments, pipelines)` returns; what it raises leaves no engine behind."""
        try:
            return work(*arguments, self._pipelines)
        except BaseException:
            self._pipelines.close()
            raise

    def request_stop(self) -> None:
        """End the run under way with a commit."""
        self._pipelines.request_stop()

    def close(self) -> None:
        """End the engines."""
        self._pipelines.close()


LaneActor: Any = ray.remote(num_cpus=0, max_concurrency=2)(_LaneProcess)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A piece of work that came to its end: what it returned, or why it did not."""

    lane: int
    result: Any
    error: str | None


class Lanes:
    """`count` lanes, numbered from 0; one driver gives each a piece of work at a time."""

    def __init__(self, count: int) -> None:
        self._actors: list[ActorHandle | None] = [None] * count
        self._under_way: dict[ObjectRef, int] = {}

    @property
    def count(self) -> int:
        """Number of lanes."""
        return len(self._actors)

    def submit(self, lane: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Begin `work(*arguments, pipelines)` in an idle lane; a lane that died gets a new process."""
        actor = self._actors[lane] = self._actors[lane] or LaneActor.remote()
        assert actor is not None and lane not in self._under_way.values()
        self._under_way[actor.run.remote(work, *arguments)] = lane

    def ended(self, timeout_s: float) -> list[Ended]:
        """The work that has ended since the last call; waits up to `timeout_s` for the first of it."""
        ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=timeout_s)
        return [self._end(ref, self._under_way.pop(ref)) for ref in ready]

    def request_stop(self) -> None:
        """Have every run under way end after the present step, with a commit."""
        for actor in self._actors:
            if actor is not None:
                actor.request_stop.remote()

    def close(self) -> None:
        """End all lanes with their engines; a run under way is lost back to its last commit."""
        idle = [actor for lane, actor in enumerate(self._actors) if actor and lane not in self._under_way.values()]
        if idle:
            ray.wait([actor.close.remote() for actor in idle], num_returns=len(idle), timeout=CLOSE_S)
        for actor in self._actors:
            if actor is not None:
                ray.kill(actor)
        self._actors, self._under_way = [None] * len(self._actors), {}

    def _end(self, ref: ObjectRef, lane: int) -> Ended:
        try:
            return Ended(lane=lane, result=ray.get(ref), error=None)
        except RayTaskError as error:
            return Ended(lane=lane, result=None, error=f"{type(error.cause).__name__}: {error.cause}")
        except RayError as error:
            self._actors[lane] = None
            return Ended(lane=lane, result=None, error=f"its process died: {str(error).splitlines()[0]}")
