"""The costs of a run's parts fitted from its folder, and predictions set against what other runs measured.

python jobs/train.py --run.steps=8 --evaluation.every=2 --run.name=base      (evaluations: small batches)
python jobs/train.py --run.steps=8 --evaluation.every=2 --run.name=small --rollout.problems_per_step=8
python jobs/train.py --run.steps=8 --evaluation.every=2 --run.name=other --rollout.max_staleness=1
python jobs/plan.py --gpu cpu --gpus 2 --measured runs/base runs/small --against runs/other
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np

from gainrl_ray.cli import config_from_yaml, diff_configs
from gainrl_ray.config import Config
from gainrl_ray.curricula.registry import strategy_class
from gainrl_ray.errors import ConfigError, DataError
from gainrl_ray.metrics import Record, read_metrics
from gainrl_ray.planning.costs import PartCosts, SyncCost, TrainCost
from gainrl_ray.planning.pipeline import Demand
from gainrl_ray.planning.prediction import Simulator
from gainrl_ray.planning.rollouts import DecodeCost, EngineLimits, EngineRun, simulate_call
from gainrl_ray.planning.workload import Lengths, RankWork, Window, rank_work
from gainrl_ray.storage import Storage

PARALLEL_SHARE = {"engine": 0.5, "learner": 0.7}
"""Share of a part's work that its threads divide; the rest runs on one core."""
PREFILL_OF_DECODE = 0.5
"""Seconds of a prompt token over those of a decoded one: one pass computes many, and none is sampled (assumed; in
the demo only some 20 tokens of a prompt are not in the cache)."""
WARM_STEPS = 2
"""Steps left out: they compile, allocate and read for the first time."""
UNBOUNDED = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A finished run: its config, its records after the warm-up, and the lengths that it drew."""

    config: Config
    records: tuple[Record, ...]
    windows: tuple[Window, ...]  # of the records
    lengths: Lengths

    @property
    def steps(self) -> list[tuple[Window, Record]]:
        """Each step's work with its record."""
        return list(zip(self.windows, self.records, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a run says about its parts, on the threads it ran with."""

    config: Config
    lengths: Lengths
    decode: DecodeCost
    line_s: float  # training seconds of a token, one rank
    update_s: float  # of an update
    sync_s: float  # publish and load
    grade_s: float
    rest_s: float  # of a step, in no part


def read_run(folder: str) -> Measured:
    """The run in `folder`.

    Raises:
        DataError: it lacks the files or figures that planning needs. ConfigError: its steps are not their windows.
    """
    storage = Storage(folder)
    records = [record for record in read_metrics(storage) if "seconds/total" in record][WARM_STEPS:]
    if len(records) < 3 or not storage.exists("config.yaml"):
        raise DataError(f"{folder}: expected a run's folder with {WARM_STEPS + 3} trained steps or more")
    if "prompt_tokens" not in records[0]:
        raise DataError(f"{folder}: its metrics.jsonl has no prompt_tokens: measure again with this version")
    config = config_from_yaml(storage.read_text("config.yaml"), origin=f"{folder}/config.yaml")
    if not config.trains_windows:
        raise ConfigError(
            f"{folder}: planning counts a step as its window, generated and trained once; this run has group_policy "
            f"{config.group_policy.name} and replay.fraction {config.replay.fraction:g}: measure one with all and 0"
        )
    windows = tuple(_window(storage.child("rollouts"), record) for record in records)
    completions = [group for window in windows for group in window.completions]
    pooled = np.concatenate(completions)
    lengths = Lengths(
        prompt=float(np.mean([record["prompt_tokens"] for record in records])),
        shared=float(records[0]["prefix_tokens"]),
        informative=float(np.mean([record["informative_groups"] for record in records])),
        mean=float(pooled.mean()),
        spread=float(pooled.std() / pooled.mean()),
        groups=tuple(tuple(group.tolist()) for group in completions),
    )
    return Measured(config=config, records=tuple(records), windows=windows, lengths=lengths)


def fit(runs: Sequence[Measured]) -> Fit:
    """The costs of the parts of one run, or of several of unlike sizes, which tell fixed from growing costs apart.

    Lengths, and what has no size, are the first run's. Raises ConfigError for a run whose parts shared cores, so that
    their seconds cannot be told apart, and for runs of other models, data or threads.
    """
    first = runs[0]
    for run in runs:
        _check_alone(run.config, first.config)
    calls = [(_counts(window, run), record["seconds/generate"]) for run in runs for window, record in run.steps]
    calls += [
        (_evaluation_counts(record, run), record["eval/seconds"])
        for run in runs
        for record in run.records
        if "eval/seconds" in record
    ]
    works = [(_work(window, run.config), record["seconds/train"]) for run in runs for window, record in run.steps]
    fixed_s, token_s = _fitted(calls)
    line_s, update_s = _fitted([((work.lines + work.measured / 3, work.updates), seconds) for work, seconds in works])
    return Fit(
        config=first.config,
        lengths=first.lengths,
        decode=DecodeCost(fixed_s=fixed_s, sequence_s=token_s, prefill_s=PREFILL_OF_DECODE * token_s),
        line_s=line_s,
        update_s=update_s,
        sync_s=_middle(first.records, "seconds/sync"),
        grade_s=_middle(first.records, "seconds/grade"),
        rest_s=_middle(first.records, "seconds/wait"),
    )


def measured_costs(fitted: Fit, config: Config) -> PartCosts:
    """The fitted parts for another config of the same model on the same machine.

    Raises ConfigError when model, precision or data differ from the measured run's.
    """
    changed = [line for line in diff_configs(fitted.config, config) if line.startswith(("model.", "data.train."))]
    if changed:
        raise ConfigError(
            f"--measured: the run had another model or data ({'; '.join(changed)}): measure one that has not"
        )
    engine = _speed("engine", fitted.config.rollout.threads_per_engine, config.rollout.threads_per_engine)
    learner = _speed("learner", fitted.config.learner.threads_per_worker, config.learner.threads_per_worker)
    decode, half = fitted.decode, fitted.sync_s / 2
    return PartCosts(
        decode=DecodeCost(
            fixed_s=decode.fixed_s * engine, sequence_s=decode.sequence_s * engine, prefill_s=decode.prefill_s * engine
        ),
        train=TrainCost(
            line_s=fitted.line_s * learner,
            square_s=0.0,
            head_s=0.0,
            measured_s=fitted.line_s * learner / 3,
            pass_s=0.0,
            pass_floor_s=0.0,
            update_s=fitted.update_s * learner,
        ),
        sync=SyncCost(gather_s=0, to_host_s=0, pack_s=0, put_s=half, pull_s=0, load_s=half, call_s=0),
        call_s=0.0,
        # What no part explains lies between them: calls, batches on their way.
        grade_s=fitted.grade_s + fitted.rest_s,
        close_s=0.0,
        commit_s=0.0,
        # OpenMP's threads keep their cores busy while they wait for each other.
        demand=Demand(
            engine=config.rollout.threads_per_engine,
            learner=config.learner.threads_per_worker,
            learners=config.learner.workers,
        ),
    )


def compare(fitted: Fit, run: Measured, cores: float) -> list[tuple[str, float, float]]:
    """(part, predicted, measured) seconds of the middle of the steps after the warm-up, for a run of another config.

    Its lengths are drawn from the fitted run: nothing of `run` but its config goes into the prediction. The middle,
    since what else runs on a machine falls on single steps.
    """
    parts = measured_costs(fitted, run.config)
    steps = len(run.records) + WARM_STEPS
    times = Simulator(run.config, fitted.lengths, steps).times(run.config, parts, UNBOUNDED, cores)[WARM_STEPS:]
    names = ("total", "generate", "train", "sync", "evaluate")
    return [
        (name, median(getattr(step, name) for step in times), _middle(run.records, f"seconds/{name}")) for name in names
    ]


def nonnegative_fit(features: np.ndarray, seconds: np.ndarray) -> tuple[float, ...]:
    """Coefficients c >= 0 of features [rows, columns] with the least sum of relative errors |features c / seconds - 1|.

    Steps that something else slowed down weigh no more than others. Every subset of columns is tried.
    """
    rows = features / seconds[:, None]
    columns = rows.shape[1]
    best, least = np.zeros(columns), np.inf
    for size in range(1, columns + 1):
        for chosen in combinations(range(columns), size):
            part = rows[:, chosen]
            weights = np.ones(len(rows))
            found = np.zeros(size)
            for _ in range(30):  # least absolute errors by reweighted squares
                found = np.linalg.lstsq(part * weights[:, None], weights, rcond=None)[0]
                weights = 1 / np.sqrt(np.maximum(np.abs(part @ found - 1), 1e-4))
            error = np.abs(part @ found - 1).sum()
            if (found >= 0).all() and error < least * (1 - 1e-9):
                least, best = error, np.zeros(columns)
                best[list(chosen)] = found
    return tuple(best.tolist())


def _check_alone(config: Config, first: Config) -> None:
    if config.rollout.max_staleness or config.rollout.engines > 1 or config.learner.workers > 1:
        raise ConfigError(
            "--measured: its parts must have run one at a time to be told apart: a run with rollout.max_staleness=0, "
            "one engine and one learner"
        )
    _check_same(first, config, ("model.", "data.train.", "rollout.threads_per_engine", "learner.threads_per_worker"))


def _check_same(measured: Config, config: Config, keys: tuple[str, ...]) -> None:
    changed = [line for line in diff_configs(measured, config) if line.startswith(keys)]
    if changed:
        raise ConfigError(
            f"--measured: a run with other settings cannot tell ({'; '.join(changed)}): measure one alike"
        )


def _fitted(rows: Sequence[tuple[tuple[float, float], float]]) -> tuple[float, ...]:
    return nonnegative_fit(np.asarray([row for row, _ in rows]), np.asarray([seconds for _, seconds in rows]))


def _speed(part: str, was: int, now: int) -> float:
    """Seconds with `now` threads over those with `was` (Amdahl)."""
    share = PARALLEL_SHARE[part]
    return (1 - share + share / now) / (1 - share + share / was)


def _window(rollouts: Storage, record: Record) -> Window:
    name = f"step_{record['step'] - 1:06d}.parquet"
    if not rollouts.exists(name):
        raise DataError(f"{rollouts.uri}/{name} is missing: measure with tracking.rollouts=true")
    table = rollouts.read_table(name, ["slot", "token_ids", "reward"])
    slots = table["slot"].to_numpy()
    tokens = np.asarray([len(ids) for ids in table["token_ids"].to_pylist()])
    rewards = table["reward"].to_numpy()
    groups = [slots == slot for slot in np.unique(slots)]
    return Window(
        round(record["prompt_tokens"]),
        np.stack([tokens[group] for group in groups]),
        np.asarray([len(set(rewards[group])) > 1 for group in groups]),
    )


def _work(window: Window, config: Config) -> RankWork:
    measures = strategy_class(config.curriculum).wants_angle
    return rank_work(window, config, ranks=1, packs=True, measures=measures)


def _counts(window: Window, run: Measured) -> tuple[float, float]:
    """(decode steps, decoded tokens with prompts at their share) of a step."""
    groups = [(window.prompt, group) for group in window.completions.tolist()]
    return _as_row(_counted(groups, run))


def _evaluation_counts(record: Record, run: Measured) -> tuple[float, float]:
    """The same of an evaluation, of which the mean length alone is recorded; its tail is that of the rollouts."""
    count = run.config.data.heldout.limit
    if count is None:
        raise ConfigError(
            "--measured: the run's data.heldout.limit is null: set it, so that evaluations can be counted"
        )
    rng = np.random.default_rng(0)
    lengths = run.lengths.draw(count, 1, run.config.rollout.max_new_tokens, rng)
    scaled = np.maximum(1, np.round(lengths * record["eval/completion_tokens"] / lengths.mean())).astype(int)
    return _as_row(_counted([(round(run.lengths.prompt), group) for group in scaled.tolist()], run))


def _counted(groups: Sequence[tuple[int, Sequence[int]]], run: Measured) -> EngineRun:
    rollout = run.config.rollout
    limits = EngineLimits(sequences=rollout.max_num_seqs, longest=rollout.max_new_tokens, cached_tokens=UNBOUNDED)
    free = DecodeCost(fixed_s=0.0)
    return simulate_call(groups, engines=1, cost=free, limits=limits, shared=run.lengths.shared)[0]


def _as_row(counted: EngineRun) -> tuple[float, float]:
    return float(counted.steps), counted.tokens + PREFILL_OF_DECODE * counted.prefilled


def _middle(records: Sequence[Record], key: str) -> float:
    return float(median(record[key] for record in records))
