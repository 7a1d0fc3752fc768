"""The pipeline as an actor, with its real parts; free of torch, which would double the time of its start."""

from typing import Any

import ray
from ray.actor import ActorHandle

from gainrl_ray.actors.generation import Generator
from gainrl_ray.actors.generation_loop import Parts
from gainrl_ray.actors.pipeline import RolloutPipeline
from gainrl_ray.actors.pool import RolloutPool
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.weights import is_alive, place_store
from gainrl_ray.config import Config
from gainrl_ray.data.problems import ProblemTable
from gainrl_ray.run_record import RunRecord
from gainrl_ray.storage import Storage

CURRICULUM_DEADLINE_S = 120.0  # for answers of the curriculum actor, which only keeps books


class _PipelineProcess(RolloutPipeline):
    """One run's pipeline after another's, over the same engines."""

    def __init__(
        self, config: Config, *, run_name: str, train: ProblemTable, heldout: ProblemTable, pad_id: int
    ) -> None:
        self._pool = RolloutPool(config)
        self.begin_run(config, run_name=run_name, train=train, heldout=heldout, pad_id=pad_id)

    def begin_run(
        self, config: Config, *, run_name: str, train: ProblemTable, heldout: ProblemTable, pad_id: int
    ) -> None:
        """Serve a run whose `engine_settings` are those of the first; the one before has ended."""
        self._store: ActorHandle | None = None
        super().__init__(
            Parts(
                config=config,
                generator=Generator(config, self._pool),
                record=RunRecord(config, run_name, Storage(config.run.storage).child(run_name)),
                train=train,
                heldout=heldout,
                pad_id=pad_id,
            )
        )

    def end_run(self) -> None:
        """End what belongs to the run; the engines stay, and load the weights of the next one before they serve it."""
        self._end_attempt()
        self._parts.generator.end_run()
        self._parts.record.close()
        if self._store is not None:
            ray.kill(self._store)

    def use_curriculum_actor(self, actor: ActorHandle) -> None:
        """As `use_curriculum`, by the actor's handle."""
        self.use_curriculum(Remote(actor, "curriculum actor", CURRICULUM_DEADLINE_S))

    def weight_store(self, node_id: str, version_bytes: int) -> ActorHandle:
        """The run's weight store, on the node of the learner that first asks; a new one when the last has died.

        Raises:
            ResourceError: the node's object store cannot hold the versions that are in use at a time.
        """
        if self._store is None or not is_alive(self._store):
            self._store = place_store(node_id, version_bytes, keep=self._config.rollout.max_staleness + 2)
            self._parts.generator.use_store(self._store)
        return self._store


PipelineActor: Any = ray.remote(num_cpus=0)(_PipelineProcess)


def engine_settings(config: Config) -> tuple[Any, ...]:
    """All that engines are made and kept by: runs in which it is equal can have the same ones."""
    return config.model, config.rollout, config.sync, config.lora, config.learner, config.ray, config.sequence_tokens
