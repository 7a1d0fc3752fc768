"""The verb train: prepare data, score, start the actors, run the learners, tell what came out."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from gainrl_ray.actors.curriculum import CurriculumActor
from gainrl_ray.actors.learner import MODEL_FOLDER, LearnerTask, train_loop
from gainrl_ray.actors.pipeline import PipelineActor
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.resources import budget, preflight, scoring_share
from gainrl_ray.actors.trainer import build_trainer
from gainrl_ray.actors.weights import WeightStoreActor
from gainrl_ray.cli import config_from_yaml, diff_configs, to_yaml
from gainrl_ray.config import Config
from gainrl_ray.console import table
from gainrl_ray.curricula.registry import strategy_class
from gainrl_ray.data.problems import ProblemTable, prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.errors import ConfigError, GainrlError
from gainrl_ray.metrics import Record, check_trackers, read_metrics
from gainrl_ray.model.loading import load_tokenizer
from gainrl_ray.scoring import ensure_index
from gainrl_ray.storage import Storage

logger = logging.getLogger(__name__)
Say = Callable[[str], None]

CONFIG_FILE = "config.yaml"
POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What came out of a run."""

    name: str
    folder: str
    records: tuple[Record, ...]
    seconds: float
    stopped: bool

    @property
    def evaluations(self) -> list[Record]:
        """The records that hold held-out figures, oldest first."""
        return [record for record in self.records if "eval/accuracy" in record]


def train(config: Config, run_name: str, say: Say = print) -> RunSummary:
    """The summary of a finished or stopped run; continues the run when its folder holds one.

    Ray must be connected. Progress goes to `say`, line by line.

    Raises:
        GainrlError: anything that the user can mend, with what was received and what to do.
    """
    started = time.monotonic()
    check_trackers(config.tracking)
    storage = open_run(config, run_name)
    tables = _tables(config, say)
    order = _order(config, tables, say)
    say(preflight(budget(config), ray.cluster_resources(), config.ray.autoscaling))
    stopped = _run(config, run_name, tables, order, say)
    return RunSummary(
        name=run_name,
        folder=storage.uri,
        records=tuple(read_metrics(storage)),
        seconds=time.monotonic() - started,
        stopped=stopped,
    )


def open_run(config: Config, run_name: str) -> Storage:
    """The run's folder, its resolved config written into it.

    Raises:
        ConfigError: the folder holds a finished run, or one with another config.
    """
    storage = Storage(config.run.storage).child(run_name)
    if storage.exists(CONFIG_FILE):
        stored = config_from_yaml(storage.read_text(CONFIG_FILE), origin=f"{storage.uri}/{CONFIG_FILE}")
        free = ("run.steps:", "run.name:", "run.allow_changed:", "run.storage:", "ray.")
        changes = [change for change in diff_configs(stored, config) if not change.startswith(free)]
        if changes and not config.run.allow_changed:
            raise ConfigError(
                f"run {run_name!r} in {config.run.storage} was started with another config:\n  "
                + "\n  ".join(changes)
                + "\nuse the same settings, another --run.name, or --run.allow_changed=true"
            )
        done = max((record["step"] for record in read_metrics(storage)), default=0)
        if done >= config.run.steps:
            raise ConfigError(
                f"run {run_name!r} has finished its {done} steps: raise --run.steps to continue it, "
                "or give another --run.name"
            )
    storage.write_text(CONFIG_FILE, to_yaml(config))
    return storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The prepared problems, and what made their prompts."""

    prompts: PromptBuilder
    train: ProblemTable
    heldout: ProblemTable
    pad_id: int


def _tables(config: Config, say: Say) -> Tables:
    tokenizer = load_tokenizer(config.model)
    prompts = PromptBuilder(tokenizer, config.data.prompt)
    storage = Storage(config.run.storage)
    tables = []
    for name, source in (("train", config.data.train), ("held-out", config.data.heldout)):
        table = prepare_problems(source, prompts=prompts, on_bad_row=config.data.on_bad_row, storage=storage)
        say(f"{name}: {table.report}")
        tables.append(table)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Tables(prompts=prompts, train=tables[0], heldout=tables[1], pad_id=pad_id)


def _order(config: Config, tables: Tables, say: Say) -> np.ndarray:
    """Dataset rows in the order that the strategy's signal gives."""
    signal_name = strategy_class(config.curriculum).signal
    if signal_name == "angle":
        preflight((scoring_share(config),), ray.cluster_resources(), config.ray.autoscaling)
        return ensure_index(config, tables.train, tables.prompts).order(config.scoring)
    if signal_name == "length":
        tokens = tables.train.prompt_tokens
        descending = getattr(config.curriculum, "descending", False)
        return np.lexsort((np.asarray(tables.train.ids), -tokens if descending else tokens))
    return np.arange(len(tables.train))


def _run(config: Config, run_name: str, tables: Tables, order: np.ndarray, say: Say) -> bool:
    """Run the learners to their end; True when the run was stopped before its last step."""
    store = WeightStoreActor.remote(keep=config.rollout.max_staleness + 2)
    curriculum = CurriculumActor.remote(config.curriculum, order, tables.train.ids, config.run.seed)
    pipeline = PipelineActor.options(max_concurrency=2 * config.learner.workers + 8).remote(
        config,
        run_name=run_name,
        curriculum=curriculum,
        store=store,
        train=tables.train,
        heldout=tables.heldout,
        pad_id=tables.pad_id,
    )
    task = LearnerTask(
        config=config,
        run_name=run_name,
        pipeline=pipeline,
        store=store,
        probe_tokens=tables.train.prompt(0).token_ids,
    )
    control = Remote(pipeline, "pipeline", 60.0)
    fit = _Fit(build_trainer(config, run_name, train_loop, task).fit)
    try:
        with _stop_signals(pipeline):
            return _watch(fit, control, say)
    finally:
        try:
            control.close()
        except (GainrlError, ray.exceptions.RayError) as error:
            logger.warning("the pipeline did not close: %s", error)
        for actor in (pipeline, curriculum, store):
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
    """Print the pipeline's lines until the trainer ends; whether the run was stopped early."""
    shown, stopped, message = 0, False, None
    while True:
        alive = fit.is_alive()
        lines, message, stopped = pipeline.progress(shown)
        for line in lines:
            say(line)
        shown += len(lines)
        if not alive:
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



def summary(run: RunSummary) -> str:
    """The table at the end: accuracy before and after, what it cost, where the model is."""
    evaluations = run.evaluations
    last = run.records[-1] if run.records else {}
    rows = [("run", run.folder), ("steps", f"{last.get('step', 0)}" + (" (stopped)" if run.stopped else ""))]
    if evaluations:
        first, final = evaluations[0], evaluations[-1]
        for key in sorted(key for key in final if key == "eval/accuracy" or "@" in key):
            name = "held-out accuracy" if key == "eval/accuracy" else f"held-out {key.removeprefix('eval/')}"
            rows.append((name, f"{first[key]:.3f} -> {final[key]:.3f} (after step {final['step']})"))
        best = max(evaluations, key=lambda record: record["eval/accuracy"])
        rows.append(("best", f"{best['eval/accuracy']:.3f} after step {best['step']}"))
    rows += [
        ("rollouts", f"{last.get('total/rollouts', 0):,}"),
        ("generated tokens", f"{last.get('total/tokens', 0):,}"),
        ("time", f"{run.seconds:.0f} s"),
        ("model", f"{run.folder}/{MODEL_FOLDER}"),
    ]
    return "\n" + table(rows, f"run {run.name}")
