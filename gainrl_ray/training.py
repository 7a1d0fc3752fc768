"""The verb train: prepare data, score, start the actors, run the learners, tell what came out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from gainrl_ray.actors.learner import MODEL_FOLDER
from gainrl_ray.actors.model_check import same_function
from gainrl_ray.actors.resources import budget, preflight, shortage, tell_processor
from gainrl_ray.actors.run import Pipelines, TrainingRun
from gainrl_ray.actors.session import cluster_supply
from gainrl_ray.cli import changed_settings, config_from_yaml, to_yaml
from gainrl_ray.config import Config
from gainrl_ray.console import table
from gainrl_ray.curricula.registry import strategy_class
from gainrl_ray.data.overlap import check_heldout_is_named, overlap
from gainrl_ray.data.parts import part_size
from gainrl_ray.data.problem_table import ProblemTable
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.errors import ConfigError
from gainrl_ray.exports import check_exports
from gainrl_ray.metrics import Record, check_trackers, read_metrics
from gainrl_ray.model.liger import check_liger
from gainrl_ray.model.loading import check_model, check_positions, pad_token_id
from gainrl_ray.model.lora import check_peft
from gainrl_ray.report.live import reporting
from gainrl_ray.report.provenance import write_environment, write_order
from gainrl_ray.rewards.runner import RewardRunner
from gainrl_ray.run_record import CONFIG_FILE
from gainrl_ray.selection_inputs import ensure_inputs, ensure_part, shares_beside_engines, signal_seconds
from gainrl_ray.storage import Storage

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What came out of a run."""

    name: str
    folder: str
    model: str  # the exported policy
    records: tuple[Record, ...]
    seconds: float
    stopped: bool

    @property
    def evaluations(self) -> list[Record]:
        """The records that hold held-out figures, oldest first."""
        return [record for record in self.records if "eval/accuracy" in record]


def train(config: Config, run_name: str, say: Say = print, pipelines: Pipelines | None = None) -> RunSummary:
    """The summary of a finished or stopped run; continues the run when its folder holds one.

    Ray must be connected. Progress goes to `say`, line by line. The engines of `pipelines` are used and stay there,
    to be ended by its owner; without it they end with the run.

    Raises:
        GainrlError: anything that the user can mend, with what was received and what to do.
    """
    started = time.monotonic()
    check_trackers(config.tracking)
    check_peft(config.lora)
    check_liger(config.learner)
    # What a user brings along and cannot be imported is refused before anything starts.
    RewardRunner(config.reward).close()
    strategy_class(config.curriculum)
    storage = open_run(config, run_name)
    check_exports(config, storage, say)
    say(preflight(budget(config), cluster_supply(), config.ray.autoscaling))
    tell_processor(config, budget(config), say)
    tables = _tables(config, say)
    has_begun = _steps_done(storage) > 0
    part = ensure_part(config, tables.train, tables.prompts, storage, started=has_begun, say=say)
    tables = replace(tables, train=part)
    lasting = pipelines or Pipelines()
    try:
        stopped = _run(config, run_name, tables, storage, say, lasting)
    finally:
        if pipelines is None:
            lasting.close()
    return RunSummary(
        name=run_name,
        folder=storage.uri,
        model=storage.child(MODEL_FOLDER).uri,
        records=tuple(read_metrics(storage)),
        seconds=time.monotonic() - started,
        stopped=stopped,
    )


def open_run(config: Config, run_name: str) -> Storage:
    """The run's folder, new or to be continued; as long as no step of a run is trained its settings may change.

    Raises:
        ConfigError: the folder holds a finished run with its exported model, or one with another config.
    """
    storage = Storage(config.run.storage).child(run_name)
    stored = stored_config(config, run_name)
    if stored is None:
        return storage
    changes = changed_settings(stored, config)
    if changes and not config.run.allow_changed:
        raise ConfigError(
            f"run {run_name!r} in {config.run.storage} was started with another config:\n  "
            + "\n  ".join(changes)
            + "\nuse the same settings, another --run.name, or --run.allow_changed=true"
        )
    done = _steps_done(storage)
    if done >= config.run.steps and storage.exists(MODEL_FOLDER):
        raise ConfigError(
            f"run {run_name!r} has finished its {done} steps: raise --run.steps to continue it, give another "
            f"--run.name, or remove its folder {MODEL_FOLDER} to have that exported again"
        )
    return storage


def stored_config(config: Config, run_name: str) -> Config | None:
    """The settings of the run of that name, None before its first step is trained."""
    storage = Storage(config.run.storage).child(run_name)
    if _steps_done(storage) == 0:
        return None
    return config_from_yaml(storage.read_text(CONFIG_FILE), origin=storage.child(CONFIG_FILE).uri)


def _steps_done(storage: Storage) -> int:
    return max((record["step"] for record in read_metrics(storage)), default=0)


def prepare(config: Config, run_name: str, say: Say = print) -> float:
    """Make what a run of `config` finds and would otherwise make; the seconds that its signals took, whenever it was.

    Ray must be connected. Raises as `train`.
    """
    tables, storage = _tables(config, say), Storage(config.run.storage).child(run_name)
    started = _steps_done(storage) > 0
    train = ensure_part(config, tables.train, tables.prompts, storage, started=started, say=say)
    ensure_inputs(config, train, tables.prompts, say)
    return signal_seconds(config, train, tables.prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The prepared problems, and what made their prompts."""

    prompts: PromptBuilder
    train: ProblemTable
    heldout: ProblemTable
    pad_id: int


def _tables(config: Config, say: Say) -> Tables:
    """The problems, once the model is one that can be trained; what takes seconds to know of it is found out beside."""
    check_heldout_is_named(config.data)
    tokenizer = check_model(config.model)
    check_positions(config)
    prompts = PromptBuilder(tokenizer, config.data.prompt)
    storage = Storage(config.run.storage)
    tables = []
    with same_function(config, say):
        for name, source in (("train", config.data.train), ("held-out", config.data.heldout)):
            table = prepare_problems(source, prompts=prompts, on_bad_row=config.data.on_bad_row, storage=storage)
            say(f"{name}: {table.report}")
            tables.append(table)
        if shared := overlap(*tables):
            say(f"warning: {shared}")
        _check_window(config, len(tables[0]))
    return Tables(prompts=prompts, train=tables[0], heldout=tables[1], pad_id=pad_token_id(tokenizer))


def _check_window(config: Config, problems: int) -> None:
    """Raises ConfigError when a step wants more problems than there are."""
    count, size = config.rollout.problems_per_step, part_size(config.data, problems)
    if count > size:
        chosen = "" if size == problems else f", of which data.fraction and data.keep leave {size}"
        raise ConfigError(
            f"rollout.problems_per_step is {count} and data.train has {problems} problems{chosen}: "
            "lower the first or give more problems"
        )


def _run(config: Config, run_name: str, tables: Tables, storage: Storage, say: Say, pipelines: Pipelines) -> bool:
    """Find or make the strategy's inputs and train; the actors start beside that where both fit on the cluster."""
    train, supply = tables.train, cluster_supply()
    scoring = shares_beside_engines(config, train, tables.prompts)
    if scoring:
        preflight(scoring, supply, config.ray.autoscaling)
    inputs = None
    if scoring is None or shortage((*budget(config), *scoring), supply) is not None:
        inputs = ensure_inputs(config, train, tables.prompts, say)
    run = TrainingRun(config, run_name, pipelines=pipelines, train=train, heldout=tables.heldout, pad_id=tables.pad_id)
    try:
        inputs = inputs or ensure_inputs(config, train, tables.prompts, say)
        # Not before: what cannot start leaves the run as it was.
        storage.write_text(CONFIG_FILE, to_yaml(config))
        write_environment(storage, supply)
        write_order(storage, inputs.order, strategy_class(config.curriculum).signal)
        with reporting(storage, config.report.every, say):
            return run.train(inputs.order, inputs.columns, say)
    finally:
        run.close()


def summary(run: RunSummary) -> str:
    """The table at the end: accuracy before and after, what it cost, where the model is."""
    evaluations = run.evaluations
    last = run.records[-1] if run.records else {}
    rows = [("run", run.folder), ("steps", f"{last.get('step', 0)}" + (" (stopped)" if run.stopped else ""))]
    if evaluations:
        first, final = evaluations[0], evaluations[-1]
        for key in sorted(key for key in final if key == "eval/accuracy" or "@" in key):
            name = "held-out accuracy" if key == "eval/accuracy" else f"held-out {key.removeprefix('eval/')}"
            before = "" if first is final else f"{first[key]:.3f} -> "
            rows.append((name, f"{before}{final[key]:.3f} (after step {final['step']})"))
        best = max(evaluations, key=lambda record: record["eval/accuracy"])
        if best is not final:
            rows.append(("best", f"{best['eval/accuracy']:.3f} (after step {best['step']})"))
    rows += [
        ("rollouts", f"{last.get('total/rollouts', 0):,}"),
        ("generated tokens", f"{last.get('total/tokens', 0):,}"),
        ("time", f"{run.seconds:.0f} s"),
        ("model", run.model),
    ]
    return "\n" + table(rows, f"run {run.name}")
