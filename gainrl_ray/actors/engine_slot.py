"""One engine's place in the pool: its placement group, its present actor and the requests that the actor holds."""

import time
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from gainrl_ray.actors.broadcast import Broadcast, Place, stall_s
from gainrl_ray.actors.engine import EngineState
from gainrl_ray.actors.resources import gpu_shares
from gainrl_ray.actors.rollout import Polled, RolloutActor, Whereabouts, tail
from gainrl_ray.actors.sync_figures import SyncFigures
from gainrl_ray.actors.vllm_setup import environment, runs_in_process
from gainrl_ray.config import Config
from gainrl_ray.errors import DeadlineError, EngineError, GainrlError, ResourceError, WeightSyncError
from gainrl_ray.types import SampleRequest

PING_S = 10.0
POLL_S = 2.0  # an engine answers a poll after this time, with or without completions


class Target(NamedTuple):
    """What the engines are to serve; a new epoch makes an equal version number another version."""

    epoch: int
    version: int


def settled(slots: "Sequence[EngineSlot]", target: Target) -> bool:
    """Whether an engine serves `target` and none that is up does not."""
    return any(slot.serves == target for slot in slots) and all(
        slot.serves == target or not slot.is_up for slot in slots
    )


class EngineSlot:
    """Brings its engine up, hands it requests and tells how it is.

    `bring_up` blocks and runs in a thread of the pool; while it runs nobody else uses the slot but for `describe`
    and `stop`.
    """

    def __init__(self, index: int, config: Config) -> None:
        self.index = index
        self.serves: Target | None = None
        self.suspect = False
        self.outstanding: dict[str, SampleRequest] = {}
        self.figures: SyncFigures | None = None
        self.restarts = 0
        self.generated_tokens = 0  # by the present actor
        self._config = config
        self._group: PlacementGroup | None = None
        self._actor: ActorHandle | None = None
        self.is_up = self.is_asleep = False
        self._where: Whereabouts | None = None
        self._submitted: list[ObjectRef] = []
        self._poll: tuple[ObjectRef, float] | None = None

    # -- coming up -----------------------------------------------------------------------------------------------

    def bring_up(self, target: Target | None, store: ActorHandle | None) -> None:
        """Start the engine if there is none, then bring it to `target`, which `store` holds.

        Raises:
            ResourceError: no node has room. DeadlineError: placement, start or update took too long.
            EngineError: it died or did not start. WeightSyncError: its weights are not the learner's.
        """
        if not self.is_up:
            self._start()
        if target is not None and self.serves != target:
            self.serves = None
            limit_s = self._config.sync.deadline_s
            assert self._actor is not None
            ref = self._actor.sync.remote(target.version, store, limit_s)
            self.figures = self._answer(ref, limit_s, f"the update to version {target.version}")
            self.serves, self.is_asleep = target, False

    def receive(self, target: Target, broadcast: Broadcast, place: Place | None) -> None:
        """Bring the engine to `target` by a broadcast, in a group to be formed when it has a `place`; else stale.

        Raises EngineError, DeadlineError.
        """
        assert self._actor is not None
        self.serves, self.is_asleep = None, False
        limit_s = self._config.sync.deadline_s
        ref = self._actor.receive.remote(target.version, broadcast, place, stall_s(self._config), limit_s)
        self.figures = self._answer(ref, limit_s, f"the broadcast of version {target.version}")
        self.serves = target

    def ping(self) -> None:
        """Nothing; raises EngineError or DeadlineError when the engine's process does not answer."""
        assert self._actor is not None
        self._answer(self._actor.health.remote(), PING_S, "a look at its health")

    @property
    def identity(self) -> str:
        """A name that no other actor has."""
        return "" if self._actor is None else self._actor._actor_id.hex()

    def sleep(self) -> None:
        """Make the engine give its memory back until it is brought to a version again.

        Raises EngineError when it cannot be reached or does not fall asleep.
        """
        if not self.is_up or self.is_asleep:
            return
        assert self._actor is not None
        self.serves = None
        limit_s = self._config.sync.deadline_s
        self._answer(self._actor.sleep.remote(limit_s), limit_s, "falling asleep")
        self.is_asleep = True

    def stop(self) -> None:
        """End the actor at once and give its resources back; its requests are forgotten."""
        if self._actor is not None:
            ray.kill(self._actor)
        if self._group is not None:
            remove_placement_group(self._group)
        self._actor = self._group = self._poll = self.serves = None
        self.is_up = self.is_asleep = self.suspect = False
        self._submitted, self.outstanding = [], {}

    def _start(self) -> None:
        rollout = self._config.rollout
        limit_s = rollout.start_deadline_s
        deadline = time.monotonic() + limit_s
        self.stop()
        self._where = None
        strategy = self._place(limit_s)
        options: dict[str, Any] = {"scheduling_strategy": strategy} if strategy else {}
        variables = environment(rollout, in_process=runs_in_process(rollout))
        self._actor = RolloutActor.options(
            num_cpus=rollout.cpus_per_engine,
            num_gpus=gpu_shares(self._config)[1],
            runtime_env={"env_vars": variables},
            **options,
        ).remote(self._config, self.index)
        assert self._actor is not None
        self._where = self._answer(self._actor.where.remote(), limit_s, "the start of its process")
        left_s = max(0.0, deadline - time.monotonic())
        self._answer(self._actor.ready.remote(left_s), left_s, "its start")
        self.is_up = True

    def _place(self, limit_s: float) -> PlacementGroupSchedulingStrategy | None:
        """Where the actor goes: an own placement group; None when the engine asks for nothing."""
        rollout = self._config.rollout
        amounts = {"CPU": rollout.cpus_per_engine, "GPU": gpu_shares(self._config)[1]}
        bundle = {name: amount for name, amount in amounts.items() if amount > 0}
        if not bundle:
            return None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fits = any(all(node.get(name, 0.0) >= amount for name, amount in bundle.items()) for node in nodes)
        if not fits and not self._config.ray.autoscaling:
            raise ResourceError(self._no_room(bundle, "no node is large enough"))
        name = f"gainrl-engine-{self.index}-{uuid.uuid4().hex[:8]}"  # Ray keeps a removed group's name for a while
        self._group = placement_group([bundle], strategy="PACK", name=name)
        if not self._group.wait(timeout_seconds=limit_s):
            raise ResourceError(self._no_room(bundle, f"no room within {limit_s:.0f} s"))
        return PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=0)

    def _no_room(self, bundle: dict[str, float], why: str) -> str:
        names = ("CPU", "GPU")
        have = [
            {name: node["Resources"].get(name, 0.0) for name in names if name in node["Resources"]}
            for node in ray.nodes()
            if node["Alive"]
        ]
        free = {name: amount for name, amount in ray.available_resources().items() if name in names}
        return (
            f"engine {self.index} needs {bundle} on one node, {why}; nodes have {have}, free in all {free}. "
            "Lower rollout.engines, rollout.cpus_per_engine or rollout.gpus_per_engine, or use a larger cluster"
        )

    # -- generating ----------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[SampleRequest], version: int) -> None:
        """Send requests; whether they were taken is seen at the next `collect`."""
        assert self._actor is not None
        self.outstanding |= {request.request_id: request for request in requests}
        limit_s = self._config.rollout.stall_deadline_s
        self._submitted.append(self._actor.submit.remote(list(requests), version, limit_s))

    def pending(self) -> list[ObjectRef]:
        """What to wait for: the engine's next answers; asks for its completions when that is not done yet."""
        if self._poll is None and self.outstanding and self._actor is not None:
            self._poll = (self._actor.poll.remote(POLL_S), time.monotonic())
        return [*self._submitted, *([self._poll[0]] if self._poll else [])]

    def collect(self, ready: Sequence[ObjectRef]) -> Polled | None:
        """The completions among the answers that are `ready`.

        Raises:
            EngineError: the engine died or has not decoded for rollout.stall_deadline_s.
        """
        for ref in [ref for ref in self._submitted if ref in ready]:
            self._answer(ref, 1.0, "its requests")
            self._submitted.remove(ref)
        if self._poll is None:
            return None
        limit_s = self._config.rollout.stall_deadline_s
        ref, asked = self._poll
        if ref not in ready:
            if time.monotonic() - asked > limit_s + POLL_S:
                raise EngineError(self.told(f"did not answer for {time.monotonic() - asked:.0f} s"))
            return None
        self._poll = None
        polled: Polled = self._answer(ref, 1.0, "its completions")
        if polled.health.age_s > limit_s:
            raise EngineError(self.told(f"has not decoded for {polled.health.age_s:.0f} s"))
        self.generated_tokens = polled.health.generated_tokens
        self.suspect = polled.health.age_s > limit_s / 2
        return polled

    def abort(self) -> None:
        """Make the engine forget its requests. Raises EngineError when it cannot be reached."""
        if self._actor is not None and self.outstanding:
            self.outstanding = {}
            limit_s = self._config.rollout.stall_deadline_s
            self._answer(self._actor.abort.remote(limit_s), limit_s, "an end of its requests")

    # -- telling -------------------------------------------------------------------------------------------------

    def state(self, target: Target | None) -> EngineState:
        """Where the engine stands against what it is to serve."""
        if not self.is_up:
            return EngineState.STARTING if self._actor or self._group else EngineState.DEAD
        if self.suspect or self.is_asleep:
            return EngineState.SUSPECT if self.suspect else EngineState.ASLEEP
        return EngineState.SERVING if target is not None and self.serves == target else EngineState.STALE

    def describe(self, target: Target | None) -> dict[str, Any]:
        """The engine for people and tests."""
        where, serves = self._where, self.serves
        return {
            "id": self.index,
            "node": where.node if where else None,
            "pid": where.pid if where else None,
            "log": where.log_file if where else None,
            "state": str(self.state(target)),
            "version": serves.version if serves else None,
            "outstanding": len(self.outstanding),
            "restarts": self.restarts,
            "generated_tokens": self.generated_tokens,
        }

    def told(self, what: str, *, with_log: bool = True) -> str:
        """A sentence on this engine: who, where, what, and its log, with the last lines when it is on this machine."""
        where = self._where
        if where is None:
            return f"engine {self.index} {what}"
        is_here = with_log and where.node_id == ray.get_runtime_context().get_node_id()
        lines = tail(where.log_file) if is_here else ""
        log = f"log {where.log_file}" + (f", last lines:\n{lines}" if lines else "")
        return f"engine {self.index} (node {where.node}, process {where.pid}) {what}; {log}"

    def _answer(self, ref: ObjectRef, limit_s: float, what: str) -> Any:
        """The actor's answer; its own deadline comes first, so that its account of the wait is the one seen."""
        try:
            return ray.get(ref, timeout=limit_s + 10.0)
        except GetTimeoutError as error:
            raise DeadlineError(self.told(f"gave no answer within {limit_s:.0f} s on {what}")) from error
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, GainrlError):
                told = self.told(f"failed on {what}: {cause}", with_log=not isinstance(cause, WeightSyncError))
                raise type(cause)(told) from error
            raise EngineError(self.told(f"failed on {what}: {cause!r}")) from error
        except RayError as error:
            raise EngineError(self.told(f"died on {what}: {str(error).splitlines()[0]}")) from error
