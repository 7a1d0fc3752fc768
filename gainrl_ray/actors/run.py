"""A training run's actors, from their start to their end, and the watching driver."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from gainrl_ray.actors.curriculum import CurriculumActor
from gainrl_ray.actors.generation import Generator
from gainrl_ray.actors.generation_loop import Parts
from gainrl_ray.actors.learner import LearnerTask, train_loop
from gainrl_ray.actors.pipeline import RolloutPipeline
from gainrl_ray.actors.pool import RolloutPool
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.trainer import build_trainer
from gainrl_ray.actors.weights import is_alive, place_store
from gainrl_ray.config import Config
from gainrl_ray.data.orders import StoredOrder
from gainrl_ray.data.problems import ProblemTable
from gainrl_ray.errors import GainrlError
from gainrl_ray.run_record import RunRecord
from gainrl_ray.storage import Storage

logger = logging.getLogger(__name__)
Say = Callable[[str], None]

POLL_S = 0.5
FAILURE_GRACE_S = 30.0
CONTROL_DEADLINE_S = 120.0  # for answers of the curriculum actor, which only keeps books


class _PipelineProcess(RolloutPipeline):
    """The pipeline with its real parts, made where it runs."""

    def __init__(
        self,
        config: Config,
        *,
        run_name: str,
        curriculum: ActorHandle,
        train: ProblemTable,
        heldout: ProblemTable,
        pad_id: int,
    ) -> None:
        super().__init__(
            Parts(
                config=config,
                curriculum=Remote(curriculum, "curriculum actor", CONTROL_DEADLINE_S),
                generator=Generator(config, RolloutPool(config)),
                record=RunRecord(config, run_name, Storage(config.run.storage).child(run_name)),
                train=train,
                heldout=heldout,
                pad_id=pad_id,
            )
        )
        self._store: ActorHandle | None = None

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


def run_training(
    config: Config,
    run_name: str,
    *,
    train: ProblemTable,
    heldout: ProblemTable,
    order: StoredOrder | range,
    pad_id: int,
    say: Say,
) -> bool:
    """Run the learners to their end; True when the run was asked to stop before its last step.

    `order` is over the rows of `train`. Progress goes to `say`, line by line.

    Raises:
        GainrlError: what ended the run.
    """
    curriculum = CurriculumActor.remote(config.curriculum, order, train.ids, config.run.seed)
    pipeline = PipelineActor.options(max_concurrency=2 * config.learner.workers + 8).remote(
        config,
        run_name=run_name,
        curriculum=curriculum,
        train=train,
        heldout=heldout,
        pad_id=pad_id,
    )
    task = LearnerTask(
        config=config,
        run_name=run_name,
        pipeline=pipeline,
        probe_tokens=train.prompt(0).token_ids,
    )
    control = Remote(pipeline, "pipeline", config.rollout.start_deadline_s)
    fit = _Fit(build_trainer(config, run_name, train_loop, task).fit)
    try:
        with _stop_signals(pipeline):
            return _watch(fit, control, say)
    finally:
        try:
            control.close()
        except (GainrlError, RayError) as error:
            logger.warning("the pipeline did not close: %s", error)
        for actor in (pipeline, curriculum):
            ray.kill(actor)


class _Fit(threading.Thread):
    """`trainer.fit` beside the watching main thread, which has to hear signals."""

    def __init__(self, fit: Callable[[], Any]) -> None:
        super().__init__(name="trainer", daemon=True)
        self._fit = fit
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._fit()
        except BaseException as error:
            self.error = error


def _watch(fit: _Fit, pipeline: Remote, say: Say) -> bool:
    """Print the pipeline's lines until the trainer ends; whether the run was stopped early.

    A rank that failed is not waited for any longer than FAILURE_GRACE_S: the others may hang in a collective.
    """
    shown, stopped, message = 0, False, None
    failed_at = float("inf")
    while True:
        alive = fit.is_alive()
        lines, message, stopped = pipeline.progress(shown)
        for line in lines:
            say(line)
        shown += len(lines)
        if message is not None:
            failed_at = min(failed_at, time.monotonic())
        if not alive or time.monotonic() - failed_at > FAILURE_GRACE_S:
            break
        fit.join(POLL_S)
    if message is not None:
        raise GainrlError(message)
    if fit.error is not None:
        raise GainrlError(f"the learners failed: {fit.error}") from fit.error
    return stopped


@contextmanager
def _stop_signals(pipeline: Any) -> Iterator[None]:
    """Ctrl-C and SIGTERM (`ray job stop`) ask the run to commit and end; a second Ctrl-C interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, _frame: Any) -> None:
        signal.signal(signal.SIGINT, previous[signal.SIGINT])
        pipeline.request_stop.remote()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
