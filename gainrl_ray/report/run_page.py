"""The report of a run as one HTML page."""

import html
import time
from pathlib import PurePosixPath

import plotly.graph_objects as go

from gainrl_ray.config import Config
from gainrl_ray.config_fields import render
from gainrl_ray.config_layers import flatten
from gainrl_ray.report import rank_figures, run_figures
from gainrl_ray.report.page import duration, page, pairs, plot, section, short, tiles
from gainrl_ray.report.plots import as_json
from gainrl_ray.report.rollout_table import rollout_table
from gainrl_ray.report.rollouts import SHOWN_CHARACTERS, sample
from gainrl_ray.report.run_data import RunData

REPORT_FILE = "report.html"
SMALL_PLOTS = {
    "informative": "Informative groups",
    "grad_norm": "Gradient norm",
    "entropy": "Entropy",
    "kl": "KL to the reference policy",
    "mismatch": "Engine/learner mismatch",
}


def run_page(run: RunData, version: str = "") -> str:
    """The page of a run as far as it has come; `version` as in `page.page`."""
    drawn = _figures(run)
    body = "".join(
        (
            tiles(_numbers(run)),
            _learning(run, drawn),
            _curriculum(run, drawn),
            _steps(run, drawn),
            _rollouts(run),
            _settings(run),
            section("environment", "Environment", pairs(list(run.environment.items())) if run.environment else ""),
        )
    )
    data = {"plots": as_json(drawn), "rollouts": rollout_table(run)}
    subtitle = f"{_about(run)} · written {time.strftime('%Y-%m-%d %H:%M:%S')}"
    return page(
        title=f"Run {run.name}",
        subtitle=subtitle,
        body=body,
        data=data,
        scripts=("rollouts.js",) if run.rollouts else (),
        version=version,
    )


def _figures(run: RunData) -> dict[str, go.Figure]:
    """Every plot that the run has figures for, by the name of its place."""
    found: dict[str, go.Figure | None] = {}
    if run.records or run.evaluations:
        found["accuracy"] = run_figures.accuracy(run)
        found["by_source"] = run_figures.by_source(run)
    if run.records:
        found["reward"] = run_figures.reward(run)
        found["seconds"] = run_figures.seconds(run)
        found["lengths"] = run_figures.lengths(run)
        found["outcomes"] = run_figures.outcomes(run)
        found |= run_figures.learning_signal(run)
    if run.rollouts:
        cells = rank_figures.rank_cells(run.rollouts, run.ordering)
        found["window"] = rank_figures.window(run, cells)
        found["mastery"] = rank_figures.mastery(run, cells)
    return {name: made for name, made in found.items() if made is not None}


def _about(run: RunData) -> str:
    planned, data = run.setting("run.steps"), run.setting("data.train.path")
    model, curriculum = run.setting("model.path"), run.setting("curriculum.name")
    parts = (
        PurePosixPath(model).name if model else "",
        f"curriculum {curriculum}" if curriculum else "",
        PurePosixPath(data).name if data else "",
        f"step {run.steps} of {planned}" if planned else "",
    )
    return " · ".join(part for part in parts if part)


def _numbers(run: RunData) -> list[tuple[str, str, str]]:
    """The figures that come first."""
    found: list[tuple[str, str, str]] = []
    held = [record for record in run.evaluations if record.get("eval/accuracy") is not None]
    if held:
        first, final = held[0], held[-1]
        remark = f"from {first['eval/accuracy']:.3f}" if final is not first else "before training"
        found.append(("held-out accuracy", f"{final['eval/accuracy']:.3f}", f"{remark}, step {final['step']}"))
        best = max(held, key=lambda record: record["eval/accuracy"])
        found.append(("best held-out", f"{best['eval/accuracy']:.3f}", f"step {best['step']}"))
    if run.records:
        last = run.records[-1]
        if not held:
            found.append(("accuracy", f"{last['accuracy'] or 0:.3f}", "problems drawn, last step"))
        rollouts, tokens, seconds = (last.get(f"total/{name}") or 0 for name in ("rollouts", "tokens", "seconds"))
        found += [
            ("steps", f"{run.steps:,}", f"of {run.setting('run.steps') or '?'}"),
            ("rollouts", f"{rollouts:,}", f"of {last.get('total/problems', 0):,} problems"),
            ("generated tokens", short(tokens), f"{tokens / max(rollouts, 1):.1f} a rollout"),
            ("time", duration(seconds), f"{seconds / max(len(run.records), 1):.2f} s a step"),
        ]
    return found


def _learning(run: RunData, drawn: dict[str, go.Figure]) -> str:
    note = "Problems drawn follow the curriculum, so their accuracy is no measure of the policy; the held-out one is."
    return section(
        "learning",
        "Learning",
        plot("accuracy", "Accuracy", note) if "accuracy" in drawn else "",
        plot("by_source", "Held-out accuracy by source") if "by_source" in drawn else "",
        plot("reward", "Reward", "Over all rollouts of a step.") if "reward" in drawn else "",
    )


def _curriculum(run: RunData, drawn: dict[str, go.Figure]) -> str:
    if "window" not in drawn:
        return ""
    lost = (
        " The order that this run was trained by cannot be read here: rows of the dataset stand for ranks."
        if run.ordering.lost
        else ""
    )
    has_window = run.setting("curriculum.sigma") is not None
    line = " The line is mu, the window's centre, as each step left it; dots are one sigma away." if has_window else ""
    return section(
        "curriculum",
        "Curriculum",
        plot(
            "window",
            "What was drawn, when",
            f"Share of a step's problems by their place among all {run.ordering.problems:,}.{line}{lost}",
            "tall",
        ),
        plot("mastery", "What was mastered, when", "Accuracy of the problems drawn; empty where none were.", "tall"),
    )


def _steps(run: RunData, drawn: dict[str, go.Figure]) -> str:
    if not run.records:
        return ""
    ahead = run.setting("rollout.max_staleness")
    overlap = " Generation runs beside training here, so parts add up to more than a step takes." if ahead else ""
    limit = run.setting("rollout.max_new_tokens")
    longest = f"Completions end after {limit:,} tokens at most." if limit else ""
    small = [plot(name, title, size="small") for name, title in SMALL_PLOTS.items() if name in drawn]
    signal = section("signal", "Learning signal", f'<div class="grid">{"".join(small)}</div>') if small else ""
    return (
        section(
            "completions",
            "Completions",
            plot("outcomes", "Outcomes", "What grading found, of all rollouts of a step."),
            plot("lengths", "Lengths", longest),
        )
        + signal
        + section(
            "time",
            "Time",
            plot("seconds", "Seconds of a step, by part", f"Of training, the slowest rank's.{overlap}"),
        )
    )


def _rollouts(run: RunData) -> str:
    if not run.rollouts:
        return ""
    shown = sum(len(group) for _, group in sample(run.rollouts))
    total = sum(step.count for step in run.rollouts)
    which = "all" if shown == total else f"a sample of {shown:,} out of"
    note = (
        f"This page holds {which} {total:,} rollouts, whole groups spread over steps and ranks; texts of more than "
        f"{SHOWN_CHARACTERS:,} characters are shortened. The run's folder rollouts/ has everything. "
        "The address of the page keeps the filters: copy it to share a view."
    )
    return section("rollouts", "Rollouts", f'<p class="note">{html.escape(note)}</p><div id="browser"></div>')


def _settings(run: RunData) -> str:
    if not run.config_text:
        return ""
    mine, default = dict(flatten(run.config)), dict(flatten(Config().model_dump(mode="json")))
    changed = [
        (key, f"{render(value)}" + (f"   (default {render(default[key])})" if key in default else ""))
        for key, value in mine.items()
        if render(value) != render(default.get(key, "(absent)"))
    ]
    return section(
        "config",
        "Settings",
        '<p class="note">Those that differ from their defaults.</p>',
        pairs(changed),
        f"<details><summary>All settings</summary><pre>{html.escape(run.config_text)}</pre></details>",
    )
