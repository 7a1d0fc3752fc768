"""Static signals of problems before training, from the cache or computed now."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from gainrl_ray.actors.evaluator import sample_problems
from gainrl_ray.actors.measures import EmbeddingMeasure, GoldMeasure, GradientMeasure, Measure
from gainrl_ray.actors.resources import budget, preflight, scoring_share
from gainrl_ray.actors.scorer import ScoringPlan, score_problems, side_share
from gainrl_ray.actors.session import cluster_supply
from gainrl_ray.algo.advantages import is_informative
from gainrl_ray.algo.static_scores import alignment_score
from gainrl_ray.config import Config
from gainrl_ray.config_signals import SignalName
from gainrl_ray.console import table as console_table
from gainrl_ray.data.problem_table import ProblemTable
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.data.signal_store import Origin, find_signal, keep_signal
from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.errors import ConfigError
from gainrl_ray.model.loading import check_model, check_positions
from gainrl_ray.scoring import SCORED, Progress, collect, fingerprint
from gainrl_ray.storage import Storage

Say = Callable[[str], None]

ROLLOUTS = "rollouts"
"""Folder, in that of `pass_rate`, of the completions behind it."""
_WORK, _INPUT = "work", "problems.parquet"
_SAMPLED = "sampled"


def ensure_signal(
    config: Config, table: ProblemTable, prompts: PromptBuilder, signal: SignalName, say: Say = print
) -> StoredArray:
    """The signal of `table`'s problems by row, [N] float64 ([N, embedding_size] float32 of `embedding`).

    - `pass_rate`: share of `signals.samples` completions graded correct, in [0, 1].
    - `gold_likelihood`: exp of the mean log-probability of the reference answer's tokens (UFO-RL), in [0, 1]; problems
      are kept by algo.static_scores.likelihood_score of it.
    - `gradient_alignment`: algo.static_scores.alignment_score (LearnAlign) of the last blocks' projected gradients, at
      `signals.warm_model` with completions of its own. Departures: no KL term; linear layers of the last blocks only.
    - `embedding`: the mean state of the question's tokens at the signal layer, projected by signs.

    Computed now, with Ray connected, when `<storage>/signals` does not hold it; what an interrupted call finished is
    not done again.

    Raises:
        GainrlError: anything that the user can mend, with what was received and what to do.
    """
    storage = Storage(config.run.storage)
    if signal == "gradient_alignment":
        config = _at_warm_model(config, prompts)
    origin = signal_origin(config, table, prompts, signal)
    found = find_signal(storage, origin, len(table))
    if found is not None:
        say(f"{signal} of {len(table):,} problems found; {found.folder.uri}")
        return found
    started = time.monotonic()
    values = _COMPUTED[signal](config, table, prompts, say)
    seconds = time.monotonic() - started
    stored = keep_signal(storage, origin, values, table.ids, seconds)
    stored.folder.delete(_WORK)
    say(f"{signal} of {len(table):,} problems computed in {seconds:.1f} s; {stored.folder.uri}")
    return stored


def compute_signals(config: Config, signals: Sequence[SignalName], say: Say = print) -> str:
    """A table of the signals of `config.data.train` under `config.model`, found or computed. Ray must be connected.

    Raises:
        GainrlError: anything that the user can mend, with what was received and what to do.
    """
    prompts = PromptBuilder(check_model(config.model), config.data.prompt)
    storage = Storage(config.run.storage)
    table = prepare_problems(config.data.train, prompts=prompts, on_bad_row=config.data.on_bad_row, storage=storage)
    rows = [("problems", f"{table.report}")]
    for signal in signals:
        stored = ensure_signal(config, table, prompts, signal, say)
        values = stored.open()
        if values.ndim == 1:
            low, middle, high = np.quantile(values, [0.0, 0.5, 1.0])
            rows.append((signal, f"{low:.4g} to {high:.4g}, median {middle:.4g}"))
        else:
            rows.append((signal, f"{values.shape[1]} numbers a problem"))
        rows.append(("", stored.folder.child(stored.name).uri))
    return "\n" + console_table(rows, "signals")


def signal_origin(config: Config, table: ProblemTable, prompts: PromptBuilder, signal: SignalName) -> Origin:
    """All that the signal of `table` under `config.model` depends on."""
    version = f"{signal}/{_VERSIONS[signal]} {config.model.dtype}"
    return Origin(
        signal=signal,
        fingerprint=replace(fingerprint(config, table, prompts), signal_version=version),
        settings=_settings(config, signal),
    )


def _sampling_settings(config: Config) -> dict[str, Any]:
    """What graded completions of a model's problems depend on beside the model and the problems."""
    rollout = config.rollout.model_dump(mode="json", include={"temperature", "top_p", "max_new_tokens", "stop"})
    reward = config.reward.model_dump(mode="json", include={"function", "correct", "wrong"})
    return {"samples": config.signals.samples, "seed": config.signals.seed, **rollout, "reward": reward}


def group_settings(config: Config) -> dict[str, Any]:
    """What the gradients of graded completions depend on beside them, and what those depend on."""
    loss = config.loss.model_dump(mode="json", include={"advantage_std", "normalisation", "truncated"})
    return {**_sampling_settings(config), "loss": loss}


def sample(config: Config, table: ProblemTable, rows: range | np.ndarray, folder: Storage, say: Say) -> pa.Table:
    """The graded completions of `rows`, as `sample_problems` describes them; says what it asks of the cluster."""
    check_positions(config)

    def begin(problems: int) -> None:
        say(preflight(budget(config)[1:], cluster_supply(), config.ray.autoscaling))
        say(f"sampling {config.signals.samples} completions of each of {problems:,} problems with {config.model.path}")

    tell = partial(Progress(say).tell, _SAMPLED)
    config = config.model_copy(update={"run": config.run.model_copy(update={"seed": config.signals.seed})})
    return sample_problems(config, table, [int(row) for row in rows], folder, begin=begin, tell=tell)


def measure_problems(config: Config, problems: str, measure: Measure, size: int, work: Storage, say: Say) -> pa.Table:
    """The measure's columns of the `size` problems in the parquet file `problems`, by rising row.

    What stands in `work` from an interrupted pass is not computed again.
    """
    say(preflight((scoring_share(config), side_share(work)), cluster_supply(), config.ray.autoscaling))
    plan = ScoringPlan(
        problems=problems,
        work=work,
        model=config.model,
        prompt=config.data.prompt,
        scoring=config.scoring,
        measure=measure,
        autoscaling=config.ray.autoscaling,
    )
    score_problems(plan, partial(Progress(say).tell, SCORED, total=size))
    return collect(work, size)


def gradient_measure(config: Config, *, projected: bool) -> GradientMeasure:
    """Gradients of the last `signals.gradient_blocks` blocks: projected, or the lengths of the whole ones."""
    return GradientMeasure(
        blocks=config.signals.gradient_blocks,
        side=config.signals.gradient_side if projected else None,
        loss=config.loss,
        temperature=config.rollout.temperature,
        max_new_tokens=config.rollout.max_new_tokens,
        pack_tokens=config.learner.pack_tokens,
    )


def group_gradients(config: Config, groups: pa.Table, work: Storage, say: Say, *, projected: bool) -> np.ndarray:
    """The gradient of each of `groups`, rows of `sample_problems`, [groups, size], or its length, [groups].

    0 for groups whose rewards are all equal: they have no advantages, and are not run.
    """
    informative = np.flatnonzero([is_informative(rewards) for rewards in groups["rewards"].to_pylist()])
    size = config.signals.gradient_side**2
    whole = np.zeros((len(groups), size) if projected else len(groups), dtype=np.float32)
    if len(informative):
        work.write_table(_INPUT, groups.take(pa.array(informative)))
        measure = gradient_measure(config, projected=projected)
        say(f"gradients of {len(informative):,} problems whose completions differ in reward")
        found = measure_problems(config, work.child(_INPUT).uri, measure, len(informative), work, say)
        whole[informative] = _by_row(found)
    return whole


def _at_warm_model(config: Config, prompts: PromptBuilder) -> Config:
    """The config with `signals.warm_model` in the place of the model.

    Raises: ConfigError when that model makes other prompts.
    """
    path = config.signals.warm_model
    if path is None:
        return config
    model = config.model.model_copy(update={"path": path, "revision": None})
    if PromptBuilder(check_model(model), config.data.prompt).digest != prompts.digest:
        raise ConfigError(
            f"signals.warm_model {path!r} has another tokenizer or chat template than model.path "
            f"{config.model.path!r}: give a model that was trained from it"
        )
    return config.model_copy(update={"model": model})


def _settings(config: Config, signal: SignalName) -> dict[str, Any]:
    signals = config.signals
    if signal == "pass_rate":
        return _sampling_settings(config)
    if signal == "gold_likelihood":
        return {"before": signals.gold_before}
    if signal == "embedding":
        return {"size": signals.embedding_size}
    return {"blocks": signals.gradient_blocks, "side": signals.gradient_side, **group_settings(config)}


def _pass_rate(config: Config, table: ProblemTable, prompts: PromptBuilder, say: Say) -> np.ndarray:
    return _all_rollouts(config, table, prompts, say)["accuracy"].to_numpy()


def _all_rollouts(config: Config, table: ProblemTable, prompts: PromptBuilder, say: Say) -> pa.Table:
    """The graded completions behind `pass_rate`, kept beside it."""
    origin = signal_origin(config, table, prompts, "pass_rate")
    folder = origin.folder(Storage(config.run.storage)).child(ROLLOUTS)
    return sample(config, table, range(len(table)), folder, say)


def _gradient_alignment(config: Config, table: ProblemTable, prompts: PromptBuilder, say: Say) -> np.ndarray:
    if config.signals.warm_model is None:
        say("gradient_alignment without signals.warm_model: gradients are those of the start model, before any warm-up")
    groups = _all_rollouts(config, table, prompts, say)
    work = _work(config, table, prompts, "gradient_alignment")
    gradients = group_gradients(config, groups, work, say, projected=True)
    return alignment_score(gradients, groups["accuracy"].to_numpy())


def _gold_likelihood(config: Config, table: ProblemTable, prompts: PromptBuilder, say: Say) -> np.ndarray:
    measure = GoldMeasure(config.signals.gold_before)
    work = _work(config, table, prompts, "gold_likelihood")
    return _by_row(measure_problems(config, table.path, measure, len(table), work, say))


def _embedding(config: Config, table: ProblemTable, prompts: PromptBuilder, say: Say) -> np.ndarray:
    measure, work = EmbeddingMeasure(config.signals.embedding_size), _work(config, table, prompts, "embedding")
    return _by_row(measure_problems(config, table.path, measure, len(table), work, say))


def _work(config: Config, table: ProblemTable, prompts: PromptBuilder, signal: SignalName) -> Storage:
    return signal_origin(config, table, prompts, signal).folder(Storage(config.run.storage)).child(_WORK)


def _by_row(found: pa.Table) -> np.ndarray:
    """The values of a pass, [N] or [N, size]."""
    values = found["value"].combine_chunks()
    if pa.types.is_list(values.type):
        return values.flatten().to_numpy().reshape(len(found), -1)
    return values.to_numpy()


_VERSIONS: dict[SignalName, str] = {
    "pass_rate": "1",
    "gold_likelihood": "1",
    "gradient_alignment": "1",
    "embedding": "1",
}
"""Name the arithmetic of each signal; a change of it is a new version, and a new signal."""

_COMPUTED: dict[SignalName, Callable[[Config, ProblemTable, PromptBuilder, Say], np.ndarray]] = {
    "pass_rate": _pass_rate,
    "gold_likelihood": _gold_likelihood,
    "gradient_alignment": _gradient_alignment,
    "embedding": _embedding,
}
