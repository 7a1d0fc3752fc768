"""A measure of a whole dataset, such as angle concentration: a Ray Data pipeline, resumable by block.

    canonical parquet --> CheckpointFilter --> blocks --> Scorer (actor pool) --> parts/*.parquet
                                  ^----------- ids of the rows in each part <---- finished/*.parquet

The pipeline runs inside a job actor: killing that actor ends it with all it started, so a deadline holds whatever
Ray Data waits for, and Ray Data's settings and log lines stay out of the driver.
"""

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch
from ray.actor import ActorHandle
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError

from gainrl_ray.actors.devices import device_environment
from gainrl_ray.actors.measures import Measure
from gainrl_ray.actors.resources import Share, shortage
from gainrl_ray.config import ModelConfig, PromptConfig, ScoringConfig
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.errors import DeadlineError, GainrlError, ResourceError
from gainrl_ray.model.device import device_type
from gainrl_ray.model.loading import load_model, load_tokenizer
from gainrl_ray.storage import Storage

PARTS, FINISHED = "parts", "finished"
"""Folders below the work folder: scored blocks, and Ray Data's record of the ids in them."""

# Reading and writing tasks: little CPU, so that the cores are the scorers', but some, to stay off a head without CPUs.
_SIDE_CPUS, _WRITERS = 0.1, 2
_FILTER_CPUS = 1.0  # what Ray Data asks for the actor that leaves out finished rows
_BLOCKS_AT_ONCE = 2  # in a scorer: one tokenised, one run
_POLL_S = 0.5
_ANSWER_S = 60.0
_REPORT_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringPlan:
    """What to score, with what, and where the blocks go."""

    problems: str  # path or URI of a parquet file: row, problem_id and the measure's columns
    work: Storage  # folder for parts and Ray Data's checkpoint; one per fingerprint
    model: ModelConfig
    prompt: PromptConfig
    scoring: ScoringConfig
    measure: Measure
    autoscaling: bool = False  # the cluster grows on demand


def score_problems(plan: ScoringPlan, on_progress: Callable[[int], None] = lambda _: None) -> int:
    """Number of problems scored by this call; blocks that an earlier call finished are kept and not scored again.

    on_progress: is given the number scored so far, every few seconds; what it raises ends the scoring.

    Raises:
        ResourceError: the cluster is too small for the pipeline and does not grow.
        DeadlineError: not finished within `scoring.deadline_s`.
        GainrlError: a worker failed; of the type raised there when that is one of this package.
    """
    _check_supply(plan)
    job: Any = ray.remote(_ScoringJob).options(num_cpus=0, max_concurrency=4).remote(plan)
    started = reported = time.monotonic()
    seen = 0
    try:
        running = job.run.remote()
        while not ray.wait([running], timeout=_POLL_S)[0]:
            now = time.monotonic()
            if now - started > plan.scoring.deadline_s:
                raise DeadlineError(_overdue(plan, seen))
            if now - reported > _REPORT_EVERY_S:
                seen = _scored(job, seen)
                on_progress(seen)
                reported = now
        ray.get(running, timeout=_ANSWER_S)
        return ray.get(job.scored.remote(), timeout=_ANSWER_S)
    except RayError as error:
        raise _named(error) from error
    finally:
        ray.kill(job)


class Scorer:
    """One of the pipeline's actors: a block of problems to their scores, under the prompts that training uses.

    Called for two blocks at a time: while the model runs over one, the next is tokenised.
    """

    def __init__(
        self, model: ModelConfig, prompt: PromptConfig, scoring: ScoringConfig, measure: Measure, job: ActorHandle
    ) -> None:
        self._batch_tokens, self._measure, self._job = scoring.batch_tokens, measure, job
        self._tokenizing, self._running = threading.Lock(), threading.Lock()
        os.environ.update(device_environment(scoring.gpus_per_actor))  # CUDA reads it when it is first asked
        _use_threads(threads_of_scorer(scoring, _cores()))
        self._refusal: GainrlError | None = None
        try:
            self._prompts = PromptBuilder(load_tokenizer(model), prompt)
            device = device_type(scoring.gpus_per_actor, "scoring.gpus_per_actor")
            loaded = load_model(model.on_cpu if device == "cpu" else model)
            self._loaded = measure.load(loaded.to(device))
        except GainrlError as error:
            # Of an error in an actor's constructor Ray hands on the text only, of one in a call the exception.
            self._refusal = error

    def __call__(self, problems: pa.Table) -> pa.Table:
        """Columns row, problem_id and the measure's, of a block of problems.

        Raises:
            ModelError: the model does not load or does not fit.
            DataError: a question has no prompt under these settings.
        """
        if self._refusal is not None:
            raise self._refusal
        with self._tokenizing:
            items = self._measure.prepare(problems, self._prompts)
        with self._running:
            values = self._measure.values(self._loaded, items, self._batch_tokens)
        ray.get(self._job.add.remote(len(items)), timeout=_ANSWER_S)
        return pa.table({"row": problems["row"], "problem_id": problems["problem_id"], **values})


class _ScoringJob:
    """Runs the pipeline of one plan in one of its threads, and counts what the scorers report in another."""

    def __init__(self, plan: ScoringPlan) -> None:
        self._plan, self._count = plan, 0

    def run(self) -> None:
        """Return when every problem is in a part."""
        _configure(self._plan)
        _pipeline(self._plan, ray.get_runtime_context().current_actor)

    def add(self, count: int) -> None:
        self._count += count

    def scored(self) -> int:
        return self._count


def threads_of_scorer(scoring: ScoringConfig, cores: float) -> int:
    """Threads of a scorer on a node of `cores`: together those that fit there have no more threads than cores."""
    if scoring.threads_per_actor is not None:
        return scoring.threads_per_actor
    beside = max(1, min(scoring.max_actors, int(cores / scoring.cpus_per_actor)))
    return max(1, int(cores) // beside)


def _cores() -> float:
    """CPUs of this actor's node: as Ray was told, and no more than the process may use."""
    told = math.inf
    if ray.is_initialized():
        node = ray.get_runtime_context().get_node_id()
        told = next((found["Resources"].get("CPU", 1.0) for found in ray.nodes() if found["NodeID"] == node), told)
    return min(told, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _use_threads(count: int) -> None:
    """Bound this process: torch's pool now, the tokenizer's when its first batch starts it.

    Ray has set OMP_NUM_THREADS to the actor's CPUs, which may be a fraction.
    """
    torch.set_num_threads(count)
    os.environ["RAYON_NUM_THREADS"] = str(count)


def side_share(work: Storage) -> Share:
    """What Ray Data asks for beside the scorers: reading, writing and, when `work` holds rows that an interrupted
    scoring finished, leaving those out."""
    resumed = bool(work.list(FINISHED))
    cpus = _SIDE_CPUS + (_FILTER_CPUS if resumed else 0.0)
    return Share(
        part="reading, writing and leaving out what is scored" if resumed else "reading and writing",
        count=1,
        cpus=cpus,
        gpus=0.0,
    )


def _check_supply(plan: ScoringPlan) -> None:
    """Nothing; raises ResourceError when the pipeline's parts could never run side by side."""
    scoring = plan.scoring
    scorers = Share(part="scorer", count=scoring.min_actors, cpus=scoring.cpus_per_actor, gpus=scoring.gpus_per_actor)
    short = shortage((scorers, side_share(plan.work)), ray.cluster_resources())
    if short and not plan.autoscaling:
        raise ResourceError(
            f"scoring does not fit: {short}: lower scoring.cpus_per_actor or scoring.min_actors, or give Ray more CPUs"
        )


def _configure(plan: ScoringPlan) -> None:
    """Ray Data's settings for this process: resume by problem id, no progress bars, errors as they were raised."""
    finished = plan.work.child(FINISHED)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    # The newer reader lists files in a task of a whole CPU: beside the filter and a scorer that is more than two cores.
    context.use_datasource_v2 = False
    context.checkpoint_config = CheckpointConfig(
        id_column="problem_id",
        checkpoint_path=finished.path,
        override_filesystem=finished.filesystem,
        # The parts are only safe once they are an index: until then the record of them must stay.
        delete_checkpoint_on_success=False,
    )


def _pipeline(plan: ScoringPlan, job: ActorHandle) -> None:
    """Run to the end: Ray Data resumes plans that start with a read and end with a write, so the sort is not here."""
    scoring, parts, source = plan.scoring, plan.work.child(PARTS), Storage(plan.problems)
    problems = ray.data.read_parquet(
        source.path,
        filesystem=source.filesystem,
        columns=["row", "problem_id", *plan.measure.columns],
        num_cpus=_SIDE_CPUS,
        # What stands in a folder's name is neither a partition (`row=a`) nor a query that hides the suffix (`a?b`).
        partitioning=None,
        file_extensions=None,
        # One reader, far faster than the scorers: else the number of CPUs decides where blocks are cut.
        override_num_blocks=1,
    )
    problems.repartition(target_num_rows_per_block=scoring.block_rows).map_batches(
        Scorer,
        batch_size=None,
        batch_format="pyarrow",
        fn_constructor_kwargs={
            "model": plan.model,
            "prompt": plan.prompt,
            "scoring": scoring,
            "measure": plan.measure,
            "job": job,
        },
        compute=ray.data.ActorPoolStrategy(
            min_size=scoring.min_actors,
            max_size=scoring.max_actors,
            max_concurrent_calls_per_actor=_BLOCKS_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        num_cpus=scoring.cpus_per_actor,
        num_gpus=scoring.gpus_per_actor,
    ).write_parquet(
        parts.path,
        filesystem=parts.filesystem,
        concurrency=_WRITERS,
        ray_remote_args={"num_cpus": _SIDE_CPUS},
    )


def _scored(job: Any, otherwise: int) -> int:
    """The job's count; `otherwise` when it does not answer at once, as while it starts."""
    asked = job.scored.remote()
    return ray.get(asked) if ray.wait([asked], timeout=_POLL_S)[0] else otherwise


def _overdue(plan: ScoringPlan, scored: int) -> str:
    scoring = plan.scoring
    return (
        f"scoring did not finish within scoring.deadline_s = {scoring.deadline_s:g} s: {scored} problems were scored; "
        f"it asks for {scoring.min_actors} to {scoring.max_actors} actors of {scoring.cpus_per_actor:g} CPUs and "
        f"{scoring.gpus_per_actor:g} GPUs, the cluster has {ray.cluster_resources().get('CPU', 0):g} CPUs and "
        f"{ray.cluster_resources().get('GPU', 0):g} GPUs; finished blocks are kept, the same command continues"
    )


def _named(error: BaseException) -> GainrlError:
    """The package's own error in the chain of causes, else one that quotes the last line of Ray's account."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, GainrlError) and not isinstance(cause, RayError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    last = str(error).strip().splitlines()[-1]
    return GainrlError(f"scoring failed: {last}; finished blocks are kept, the same command continues")
