"""The verb diagnose: whether signals of problems say more than their length, on a sample of the user's own."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from gainrl_ray.algo.angles import length_residual
from gainrl_ray.algo.correlations import LEVEL, RESAMPLES, Correlation, bootstrap
from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.config import Config
from gainrl_ray.config_signals import SignalName
from gainrl_ray.data.problem_table import ProblemTable
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.data.scored_index import ScoredIndex
from gainrl_ray.data.signal_store import DIAGNOSTICS_FILE, Origin, find_signal
from gainrl_ray.model.loading import check_model
from gainrl_ray.scoring import fingerprint, score
from gainrl_ray.signals import ROLLOUTS, group_gradients, group_settings, sample, signal_origin
from gainrl_ray.storage import Storage

Say = Callable[[str], None]

LENGTH, LABEL, PASS_RATE, GRADIENT = "prompt_tokens", "difficulty_label", "pass_rate", "gradient_norm"
_VERSION = "1"
_OTHERS: tuple[SignalName, ...] = ("gold_likelihood", "gradient_alignment")
"""Signals that are looked at where they have been computed before."""
_WORK = "work"
_PLAIN = {
    LENGTH: "the prompt's length",
    LABEL: "the difficulty label",
    PASS_RATE: "the measured pass rate",
    GRADIENT: "the gradient norm",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one signal has to do with another figure of the same problems."""

    signal: str
    against: str
    plain: Correlation  # Spearman
    partial: Correlation | None  # the same at a fixed prompt length; None against the length itself
    problems: int
    tied: int  # of them, those that share the other figure's most frequent value

    def as_json(self) -> dict[str, str | float | int | None]:
        """The entry of diagnostics.json; null where it is not defined."""
        partial = self.partial or Correlation(value=math.nan, low=math.nan, high=math.nan)
        values = {
            **{"spearman": self.plain.value, "low": self.plain.low, "high": self.plain.high},
            **{"partial": partial.value, "partial_low": partial.low, "partial_high": partial.high},
        }
        figures = {name: value if math.isfinite(value) else None for name, value in values.items()}
        return {"signal": self.signal, "against": self.against, **figures, "problems": self.problems}


def diagnose(config: Config, say: Say = print) -> list[Finding]:
    """What each signal of `config.data.train` under `config.model` has to do with length, label, pass rate and gradient
    norm, on `signals.diagnose_problems` problems drawn at random; also stored as diagnostics.json. Ray must be
    connected.

    The pass rate is that of `signals.samples` completions, the norm that of the last `signals.gradient_blocks` blocks'
    linear layers for the group of those completions (0 where all are right or all wrong).

    Raises:
        GainrlError: anything that the user can mend, with what was received and what to do.
    """
    storage = Storage(config.run.storage)
    prompts = PromptBuilder(check_model(config.model), config.data.prompt)
    table = prepare_problems(config.data.train, prompts=prompts, on_bad_row=config.data.on_bad_row, storage=storage)
    folder = diagnostics_origin(config, table, prompts).folder(storage)
    index = score(config, say).index
    count = min(config.signals.diagnose_problems, len(table))
    rows = np.sort(coordinate_rng(config.run.seed, "diagnose").choice(len(table), count, replace=False))
    signals = _signals(config, table, prompts, index, rows, say)
    groups = _groups(config, table, prompts, rows, folder, say)
    targets = {LENGTH: signals[LENGTH], PASS_RATE: groups["accuracy"].to_numpy()}
    if (labels := table.labels()) is not None:
        targets[LABEL] = labels[rows]
    targets[GRADIENT] = group_gradients(config, groups, folder.child(_WORK), say, projected=False)
    findings = correlate(signals, targets, config.run.seed)
    folder.write_text(DIAGNOSTICS_FILE, json.dumps(document(findings), indent=1))
    folder.delete(_WORK)
    say(report(findings) + f"\n\nwritten to {folder.child(DIAGNOSTICS_FILE).uri}")
    return findings


def document(findings: list[Finding]) -> dict[str, Any]:
    """What diagnostics.json holds."""
    return {"signals": [finding.as_json() for finding in findings], "conclusions": conclusions(findings)}


def diagnostics_origin(config: Config, table: ProblemTable, prompts: PromptBuilder) -> Origin:
    """All that the diagnosis of `table` under `config.model` depends on; `folder` of it holds diagnostics.json."""
    signals = config.signals
    settings = {"problems": signals.diagnose_problems, "blocks": signals.gradient_blocks, **group_settings(config)}
    version = f"diagnostics/{_VERSION} {config.model.dtype}"
    wanted = replace(fingerprint(config, table, prompts), signal_version=version)
    return Origin(signal="diagnostics", fingerprint=wanted, settings=settings)


def correlate(signals: dict[str, np.ndarray], targets: dict[str, np.ndarray], seed: int) -> list[Finding]:
    """A finding for each signal against each target, problems without a value in the target left out, and targets
    without values; all [problems].

    `signals` has the prompt's length among them, by which the others' partial correlations are taken.
    """
    findings = []
    for against, target in targets.items():
        known = np.isfinite(target)
        if not known.any():
            continue
        length = signals[LENGTH][known]
        sizes = {"problems": int(known.sum()), "tied": int(np.unique(target[known], return_counts=True)[1].max())}
        for name, values in signals.items():
            if name == against:
                continue
            a, b = values[known], target[known]
            given = None if LENGTH in (name, against) else length
            plain = bootstrap(a, b, seed, name, against)
            partial = None if given is None else bootstrap(a, b, seed, name, against, given=given)
            findings.append(Finding(signal=name, against=against, plain=plain, partial=partial, **sizes))
    return findings


def conclusions(findings: list[Finding]) -> list[str]:
    """One sentence a target: whether angle concentration says more of it than the prompt's length does."""
    sentences = []
    for finding in findings:
        if finding.signal != "angle":
            continue
        what, plain, partial = _PLAIN[finding.against], finding.plain, finding.partial
        if math.isnan(plain.value):
            text = f"Nothing can be said of {what}: it, or the angle, is the same for all problems."
        elif partial is None:
            share = "moves with" if plain.is_clear else "is not seen to move with"
            text = f"Angle concentration {share} {what}: {_interval(plain)}."
        elif partial.is_clear:
            text = f"Angle concentration tells something of {what} that length does not: {_interval(partial)}."
        else:
            text = f"Angle concentration is not seen to tell more of {what} than length does: {_interval(partial)}."
        sentences.append(text)
    return sentences


def report(findings: list[Finding]) -> str:
    """The findings as tables, one a target, with their conclusions."""
    said = iter(conclusions(findings))
    blocks = [f"Spearman, {LEVEL:.0%} bootstrap intervals of {RESAMPLES} resamples"]
    for against in dict.fromkeys(finding.against for finding in findings):
        found = [finding for finding in findings if finding.against == against]
        title = f"{'against ' + against:<27}{'alone':<25}{'given prompt length':<25}"
        problems, tied = found[0].problems, found[0].tied
        lines = [f"{title}({problems} problems" + (f", {tied} at one value)" if 2 * tied > problems else ")")]
        for finding in found:
            partial = "" if finding.partial is None else _interval(finding.partial)
            lines.append(f"  {finding.signal:<25}{_interval(finding.plain):<25}{partial}".rstrip())
        blocks.append("\n".join([*lines, next(said)]))
    return "\n" + "\n\n".join(blocks)


def _signals(
    config: Config, table: ProblemTable, prompts: PromptBuilder, index: ScoredIndex, rows: np.ndarray, say: Say
) -> dict[str, np.ndarray]:
    """The signals that are there, of `rows`, [rows] each."""
    place = np.argsort(index.rows)  # of each row among the scores
    residual = length_residual(index.score, index.prompt_tokens)
    scored = {"angle": index.score, "angle_residual": residual, "c_intra": index.c_intra, "c_inter": index.c_inter}
    found = {name: values[place][rows] for name, values in scored.items()}
    for name in _OTHERS:
        stored = find_signal(Storage(config.run.storage), signal_origin(config, table, prompts, name), len(table))
        if stored is not None:
            say(f"{name} found; {stored.folder.uri}")
            found[name] = np.array(stored.open()[rows])
    return {**found, LENGTH: index.prompt_tokens[place][rows]}


def _groups(
    config: Config, table: ProblemTable, prompts: PromptBuilder, rows: np.ndarray, folder: Storage, say: Say
) -> pa.Table:
    """The graded completions of `rows`: those behind the signal `pass_rate` where it is there, else sampled now."""
    stored = find_signal(Storage(config.run.storage), signal_origin(config, table, prompts, "pass_rate"), len(table))
    if stored is None:
        return sample(config, table, rows, folder.child(ROLLOUTS), say)
    say(f"pass_rate found; {stored.folder.uri}")
    return sample(config, table, range(len(table)), stored.folder.child(ROLLOUTS), say).take(pa.array(rows))


def _interval(correlation: Correlation) -> str:
    if math.isnan(correlation.value):
        return "not defined"
    return f"{correlation.value:+.2f} [{correlation.low:+.2f}, {correlation.high:+.2f}]"
