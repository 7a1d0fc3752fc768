"""What the pipeline keeps beside the curriculum from step to step: the group policy and the replay buffer."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from gainrl_ray.actors.group_rounds import Generated, StepPlan, renumbered
from gainrl_ray.checkpoint import RunState
from gainrl_ray.config import Config
from gainrl_ray.curricula.group_policy import Verdict, build_group_policy
from gainrl_ray.curricula.replay import ReplayBuffer
from gainrl_ray.data.problems import ProblemTable
from gainrl_ray.data.rollout_table import groups_to_table, table_to_groups
from gainrl_ray.types import GradedGroup, Window


class Planner:
    """Plans steps from the policy and the buffer as they are after the last observed step."""

    def __init__(self, config: Config, table: ProblemTable) -> None:
        self._config, self._table = config, table
        self.reset(None)

    def reset(self, state: RunState | None) -> None:
        """Rewind to what `state` holds; None starts afresh."""
        config = self._config
        self._policy = build_group_policy(config.group_policy, config.run.seed)
        if state is not None:
            self._policy.load_state_dict(state.group_policy)
        stored = self._groups(state.replay if state else None)
        self._buffer = ReplayBuffer(config.replay.capacity, config.run.seed, stored.get(0, ()))

    def plan(self, step: int, select: Callable[[int], Window]) -> StepPlan:
        """The plan of `step`, whose window `select` draws, of as many problems as it is asked for."""
        problems = self._config.rollout.problems_per_step
        wanted = min(round(self._config.replay.fraction * problems), problems - 1)
        replayed = self._buffer.pick(step, wanted)
        window = select(problems - len(replayed))
        return StepPlan(window=window, policy=copy.copy(self._policy), replayed=replayed)

    def observe(self, generated: Generated) -> None:
        """Take in a trained step."""
        self._policy.observe(generated.groups)
        if self._config.replay.fraction:
            self._buffer.add(generated.groups)

    def metrics(self, generated: Generated) -> dict[str, float]:
        """Figures of a trained step, those that its settings give a meaning to."""
        found: dict[str, float] = {}
        if self._policy.name != "all":
            size = self._config.rollout.group_size
            accepted = sum(self._policy.admit(graded, size) is Verdict.ACCEPT for graded in generated.groups)
            wanted = self._config.rollout.problems_per_step - len(generated.replayed)
            found = {
                "generated_groups": len(generated.groups),
                "accepted_groups": accepted,
                "missing_groups": wanted - accepted,
                "refill_rounds": generated.refills,
                "skipped_problems": len(generated.drawn.rows) - len(generated.groups),
                **{f"group_policy/{name}": value for name, value in self._policy.metrics().items()},
            }
        if self._config.replay.fraction:
            found |= {"replayed_groups": len(generated.replayed), "replay_buffer": len(self._buffer.groups)}
        return found

    def saved(self, state: RunState, ahead: Mapping[int, Generated]) -> RunState:
        """`state` with the buffer and with the groups of the steps ahead, whose policies will be gone on resume."""
        state = replace(state, replay=self._buffer_table())
        if not ahead:
            return state
        return replace(
            state,
            drawn=tuple(done.drawn for done in ahead.values()),
            pending=pa.concat_tables([groups_to_table(step, done.groups) for step, done in ahead.items()]),
            pending_replay=pa.concat_tables([groups_to_table(step, done.replayed) for step, done in ahead.items()]),
            refills={step: done.refills for step, done in ahead.items()},
        )

    def restored(self, state: RunState) -> dict[int, Generated]:
        """The groups of the steps ahead that `saved` put into `state`."""
        fresh, replayed = self._groups(state.pending), self._groups(state.pending_replay)
        drawn = {window.step: window for window in state.drawn}
        return {
            step: Generated(
                drawn=drawn[step],
                groups=groups,
                replayed=replayed.get(step, ()),
                refills=state.refills[step],
                generate_s=0.0,
                grade_s=0.0,
            )
            for step, groups in fresh.items()
        }

    @property
    def policy_state(self) -> dict[str, Any]:
        """The policy's state."""
        return self._policy.state_dict()

    def _buffer_table(self) -> pa.Table | None:
        """The buffer as a rollout table of step 0, slots in its order; None where nothing is replayed."""
        if not self._config.replay.fraction:
            return None
        return groups_to_table(0, renumbered(self._buffer.groups, 0))

    def _groups(self, table: pa.Table | None) -> dict[int, tuple[GradedGroup, ...]]:
        return {} if table is None else table_to_groups(table, self._table.problem, self._table.prompt)
