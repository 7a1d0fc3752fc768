"""The verb score: the scored index of a dataset under a model, from the cache or made now."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from gainrl_ray.actors.measures import AngleMeasure
from gainrl_ray.actors.resources import Share, preflight, scoring_share, tell_processor
from gainrl_ray.actors.scorer import PARTS, ScoringPlan, score_problems, side_share
from gainrl_ray.actors.session import cluster_supply
from gainrl_ray.algo.angles import spearman, without_diagonal
from gainrl_ray.config import Config
from gainrl_ray.console import table as console_table
from gainrl_ray.data.problem_table import ProblemTable, RowReport
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.data.scored_index import MANIFEST_FILE, AngleSignal, Fingerprint, Manifest, ScoredIndex
from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.errors import DataError
from gainrl_ray.model.digest import model_digest
from gainrl_ray.model.loading import check_model
from gainrl_ray.model.prefill import SIGNAL_VERSION
from gainrl_ray.storage import Storage

Say = Callable[[str], None]
Watch = Callable[[str, int], None]
"""Is told PREPARED or SCORED, and the number of rows so far."""

PREPARED, SCORED = "prepared", "scored"

INDEXES = "indexes"
_WORK = "work"
_SAY_EVERY_S = 5.0
_NO_ROWS = pa.table({"row": pa.array([], pa.int64())})


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringReport:
    """What a call of `score` found or made."""

    index: ScoredIndex
    folder: str
    rows: RowReport
    scored: int  # problems scored by this call; 0 when the index was there
    seconds: float  # of the scoring, workers' start included


def score(config: Config, say: Say = print, watch: Watch = lambda *_: None) -> ScoringReport:
    """The scored index of `config.data.train` under `config.model`, with how it came about. Ray must be connected.

    `watch` is told how far it is, every second or more often.

    Raises:
        GainrlError: anything that the user can mend, with what was received and what to do.
    """
    prompts = PromptBuilder(check_model(config.model), config.data.prompt)
    progress = Progress(say, watch)
    table = prepare_problems(
        config.data.train,
        prompts=prompts,
        on_bad_row=config.data.on_bad_row,
        storage=Storage(config.run.storage),
        on_progress=partial(progress.tell, PREPARED),
    )
    say(preflight((scoring_share(config),), cluster_supply(), config.ray.autoscaling))
    tell_processor(config, (scoring_share(config),), say)
    return _find_or_make(config, table, fingerprint(config, table, prompts), progress)


def scoring_shares(config: Config, wanted: Fingerprint) -> tuple[Share, ...]:
    """What the scoring of an index that is not there yet will ask the cluster for; nothing when it is there."""
    folder = _folder(config, wanted)
    if folder.exists(MANIFEST_FILE):
        return ()
    return scoring_share(config), side_share(folder.child(_WORK))


def scoring_seconds(config: Config, wanted: Fingerprint) -> float:
    """Seconds that the scores of this index took, workers' start included. Raises DataError when it is not there."""
    return Manifest.read(_folder(config, wanted)).scoring_seconds


def ensure_order(
    config: Config, table: ProblemTable, wanted: Fingerprint, say: Say = print, signal: AngleSignal = "angle"
) -> StoredArray:
    """The rows of `table` by a signal, the first to be trained first; its whole dataset is scored now when
    `<storage>/indexes` does not hold it.

    `wanted`: as `fingerprint` gives it.

    Ray must be connected when they are to be scored. Blocks that an interrupted call finished are not scored again.
    An order that was made before is taken as it is, without reading the scores.

    Raises:
        IndexMismatchError: the index that is there was made from other inputs; says which differ.
        DeadlineError: scoring took longer than `scoring.deadline_s`.
        DataError: scores that are not finite, with their problem ids.
    """
    folder, name = _folder(config, wanted), ScoredIndex.order_name(config.scoring, signal)
    if not (folder.exists(MANIFEST_FILE) and folder.exists(name)):
        index = ensure_index(config, table, wanted, say)
        return table.keep_order(folder, name, lambda: index.order(config.scoring, signal))
    manifest = Manifest.read(folder)
    manifest.check(wanted, len(table.whole))
    correlation = f"Spearman with prompt tokens: {manifest.length_correlation:+.3f}"
    say(f"order of {len(table.whole):,} problems found; {correlation}; {folder.child(name).uri}")
    return table.keep_order(folder, name, lambda: ScoredIndex.load(folder).order(config.scoring, signal))


def ensure_index(config: Config, table: ProblemTable, wanted: Fingerprint, say: Say = print) -> ScoredIndex:
    """The scored index of the whole dataset behind `table`, under the conditions of `ensure_order`.

    Raises: ResourceError too, when it has to be scored and the cluster is too small for that.
    """
    if shares := scoring_shares(config, wanted):
        preflight(shares, cluster_supply(), config.ray.autoscaling)
    return _find_or_make(config, table.whole, wanted, Progress(say)).index


def fingerprint(config: Config, table: ProblemTable, prompts: PromptBuilder) -> Fingerprint:
    """All that the scores of `table` under `config.model` depend on."""
    return Fingerprint(
        model_digest=model_digest(config.model),
        tokenizer_digest=prompts.tokenizer_digest,
        template_digest=prompts.template_digest,
        dataset_digest=table.digest,
        signal_version=f"{SIGNAL_VERSION} {config.model.dtype}",
    )


def summary(report: ScoringReport) -> str:
    """The table at the end: how many, how fast, how close to a length sort, where."""
    index = report.index
    rows = [("problems", f"{report.rows}"), ("scored now", f"{report.scored:,}")]
    if report.scored:
        rows.append(("time", f"{report.seconds:.1f} s, {report.scored / report.seconds:,.0f} prompts/s"))
    rows += [
        ("score", f"{index.score.min():.4f} to {index.score.max():.4f}, median {np.median(index.score):.4f}"),
        ("Spearman with prompt tokens", _correlations(index)),
        ("index", report.folder),
    ]
    return "\n" + console_table(rows, "scored index")


class Progress:
    """Tells how far the work is: every report to a watcher, some to a reader."""

    def __init__(self, say: Say, watch: Watch = lambda *_: None) -> None:
        self.say, self._watch = say, watch
        self._stage, self._said = "", (0, 0.0)

    def tell(self, stage: str, rows: int, total: int | None = None) -> None:
        """Report rows done in a stage; the speed told is that since the last line."""
        self._watch(stage, rows)
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._said = stage, (rows, now)
        before, then = self._said
        if rows > before and now - then >= _SAY_EVERY_S:
            of = "" if total is None else f" of {total:,}"
            self.say(f"  {rows:,}{of} problems {stage}, {(rows - before) / (now - then):,.0f} a second")
            self._said = rows, now


def _folder(config: Config, wanted: Fingerprint) -> Storage:
    return Storage(config.run.storage).child(INDEXES, wanted.digest)


def _find_or_make(config: Config, table: ProblemTable, wanted: Fingerprint, progress: Progress) -> ScoringReport:
    folder = _folder(config, wanted)
    started, scored = time.monotonic(), 0
    if not folder.exists(MANIFEST_FILE):
        scored = _make(config, table, wanted, folder, progress)
    index = ScoredIndex.load(folder)
    index.manifest.check(wanted, len(table))
    seconds = time.monotonic() - started
    how = f"{scored:,} scored in {seconds:.1f} s ({scored / seconds:,.0f} prompts/s)" if scored else "found"
    progress.say(
        f"index of {len(index):,} problems {how}; Spearman with prompt tokens: {_correlations(index)}; {folder.uri}"
    )
    return ScoringReport(index=index, folder=folder.uri, rows=table.report, scored=scored, seconds=seconds)


def _make(config: Config, table: ProblemTable, wanted: Fingerprint, folder: Storage, progress: Progress) -> int:
    """Number of problems scored by this call; the index is in `folder` when it returns.

    What an interrupted call took for the problems that it scored is taken to be what this one takes for as many.
    """
    plan = ScoringPlan(
        problems=table.path,
        work=folder.child(_WORK),
        model=config.model,
        prompt=config.data.prompt,
        scoring=config.scoring,
        measure=AngleMeasure(),
        autoscaling=config.ray.autoscaling,
    )
    progress.say(f"scoring {len(table):,} problems with {config.model.path} ({config.model.dtype})")
    tell = partial(progress.tell, SCORED, total=len(table))
    started = time.monotonic()
    scored = score_problems(plan, tell)
    tell(scored)
    seconds = (time.monotonic() - started) * (len(table) / scored if scored else 1.0)
    _index(collect(plan.work, len(table)), wanted, seconds).save(folder)
    folder.delete(_WORK)
    return scored


def collect(work: Storage, size: int) -> pa.Table:
    """All parts of a finished pass over `size` problems, each row once, by rising row.

    A row may stand in two parts when two runs scored the same problems at once; either will do.
    Raises: DataError when rows are missing.
    """
    parts = work.child(PARTS)
    whole = pa.concat_tables(
        [_NO_ROWS, *map(parts.read_table, parts.list())],
        promote_options="default",
    )
    _, first = np.unique(whole["row"].to_numpy(), return_index=True)
    if len(first) != size:
        raise DataError(
            f"{work.uri} holds scores of {len(first)} problems, expected {size}: delete that folder and score again"
        )
    return whole.take(first)


def _index(whole: pa.Table, wanted: Fingerprint, seconds: float) -> ScoredIndex:
    return ScoredIndex(
        rows=whole["row"].to_numpy(),
        problem_ids=whole["problem_id"],
        c_intra=whole["c_intra"].to_numpy(),
        c_inter=whole["c_inter"].to_numpy(),
        prompt_tokens=whole["prompt_tokens"].to_numpy(),
        question_tokens=whole["question_tokens"].to_numpy(),
        fingerprint=wanted,
        scoring_seconds=seconds,
    )


def _correlations(index: ScoredIndex) -> str:
    """Spearman's rank correlation of the score with the prompt's length, with and without the i = j terms."""
    off_diagonal = spearman(without_diagonal(index.c_intra, index.question_tokens) + index.c_inter, index.prompt_tokens)
    return f"{index.length_correlation:+.3f}, {off_diagonal:+.3f} without the diagonal terms"
