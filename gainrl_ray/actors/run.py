"""A training run's actors, from their start to their end, and the watching of it."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from gainrl_ray.actors.curriculum import CurriculumActor
from gainrl_ray.actors.learner import LearnerTask, train_loop
from gainrl_ray.actors.pipeline_actor import PipelineActor, engine_settings
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.trainer import build_trainer
from gainrl_ray.config import Config
from gainrl_ray.console import SILENCE_S
from gainrl_ray.curricula.base import Column
from gainrl_ray.data.problems import ProblemTable
from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.errors import GainrlError
from gainrl_ray.storage import Storage

logger = logging.getLogger(__name__)
Say = Callable[[str], None]

POLL_S = 0.5
FAILURE_GRACE_S = 30.0


class Pipelines:
    """The pipeline actor of one run after another: its engines stay for the next run that can use them.

    One thread opens and closes; `request_stop` may come from another.
    """

    def __init__(self) -> None:
        self._actor: ActorHandle | None = None
        self._settings: tuple[Any, ...] = ()
        self._deadline_s = 0.0
        self._stop = False

    def open(
        self, config: Config, run_name: str, *, train: ProblemTable, heldout: ProblemTable, pad_id: int
    ) -> ActorHandle:
        """The pipeline actor, ready for this run; the one before has ended."""
        settings, run = engine_settings(config), {"train": train, "heldout": heldout, "pad_id": pad_id}
        if self._actor is not None and settings != self._settings:
            self.close()
        if self._actor is None:
            self._settings, self._deadline_s = settings, config.rollout.start_deadline_s
            threads = 2 * config.learner.workers + 8
            self._actor = PipelineActor.options(max_concurrency=threads).remote(config, run_name=run_name, **run)
        else:
            self._remote(self._actor).begin_run(config, run_name=run_name, **run)
        assert self._actor is not None
        if self._stop:
            self.request_stop()
        return self._actor

    def request_stop(self) -> None:
        """End the present run, and each that comes later, after the step under way, with a commit."""
        self._stop = True
        if (actor := self._actor) is not None:
            actor.request_stop.remote()

    def close(self) -> None:
        """End the pipeline and its engines, whatever state they are in."""
        if self._actor is None:
            return
        try:
            self._remote(self._actor).close()
        except (GainrlError, RayError) as error:
            logger.warning("the pipeline did not close: %s", error)
        ray.kill(self._actor)
        self._actor = None

    def _remote(self, actor: ActorHandle) -> Remote:
        return Remote(actor, "pipeline", self._deadline_s)


class TrainingRun:
    """The actors of a run: engines come up at once, learners when the order is known.

    Ray Train takes part of the cluster out of Ray Data's hands, so learners must not stand beside a scoring.
    """

    def __init__(
        self,
        config: Config,
        run_name: str,
        *,
        pipelines: Pipelines,
        train: ProblemTable,
        heldout: ProblemTable,
        pad_id: int,
    ) -> None:
        self._config, self._run_name, self._problems = config, run_name, train
        self._curriculum: ActorHandle | None = None
        self._pipelines = pipelines
        self._pipeline = pipelines.open(config, run_name, train=train, heldout=heldout, pad_id=pad_id)
        self._control = Remote(self._pipeline, "pipeline", config.rollout.start_deadline_s)

    def train(self, order: StoredArray | range, columns: Mapping[Column, StoredArray], say: Say) -> bool:
        """Run the learners to their end; True when the run was asked to stop before its last step.

        `order` and `columns` are over the rows of the training problems. Progress goes to `say`, line by line.

        Raises:
            GainrlError: what ended the run.
        """
        config = self._config
        ids, seed = self._problems.ids, config.run.seed
        folder = Storage(config.run.storage).child(self._run_name, "curriculum")
        self._curriculum = CurriculumActor.remote(config.curriculum, order, ids, seed, folder, columns)
        self._pipeline.use_curriculum_actor.remote(self._curriculum)  # runs before the learners' calls: they come later
        task = LearnerTask(
            config=config,
            run_name=self._run_name,
            pipeline=self._pipeline,
            probe_tokens=self._problems.prompt(0).token_ids,
        )
        fit = _Fit(build_trainer(config, self._run_name, train_loop, task).fit)
        with stop_signals(self._pipeline.request_stop.remote):
            return _watch(fit, self._control, say)

    def close(self) -> None:
        """End all that is the run's own; the engines stay with their `Pipelines`, unless the pipeline is broken."""
        try:
            self._control.end_run()
        except (GainrlError, RayError) as error:
            logger.warning("the pipeline did not end its run: %s", error)
            self._pipelines.close()
        if self._curriculum is not None:
            ray.kill(self._curriculum)


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
    """Print the pipeline's lines, and a word where there is none for long, until the trainer ends; whether the run was
    stopped early.

    A rank that failed is not waited for any longer than FAILURE_GRACE_S: the others may hang in a collective.
    """
    shown, stopped, message = 0, False, None
    failed_at, last = float("inf"), time.monotonic()
    words = 0  # since the last line
    while True:
        alive = fit.is_alive()
        lines, doing, message, stopped = pipeline.progress(shown)
        for line in lines:
            say(line)
        shown += len(lines)
        if lines:
            last, words = time.monotonic(), 0
        elif time.monotonic() - last > SILENCE_S * (words + 1):
            say(f"  {doing}, {time.monotonic() - last:.0f} s")
            words += 1
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
def stop_signals(request_stop: Callable[[], Any]) -> Iterator[None]:
    """Ctrl-C and SIGTERM (`ray job stop`) ask for an end with a commit; a second Ctrl-C interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, _frame: Any) -> None:
        signal.signal(signal.SIGINT, previous[signal.SIGINT])
        request_stop()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
