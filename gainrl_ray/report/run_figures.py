"""The plots of a run but for those over ranks."""

import numpy as np
import plotly.graph_objects as go

from gainrl_ray.report.plots import (
    BLUE,
    GOLD,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SHARE_SCALE,
    SKY,
    band,
    figure,
    heat_map,
    line,
)
from gainrl_ray.report.run_data import RunData
from gainrl_ray.types import Outcome

STEP = "step"
TIME_PARTS = {
    "generate": BLUE,
    "grade": PURPLE,
    "train": ORANGE,
    "sync": GREEN,
    "evaluate": GOLD,
    "wait": GREY,
}
OUTCOME_COLOURS = {
    Outcome.CORRECT: GREEN,
    Outcome.WRONG: ORANGE,
    Outcome.UNPARSABLE: PURPLE,
    Outcome.TIMEOUT: GOLD,
    Outcome.CRASH: RED,
}
SOURCE_PREFIX = "eval/accuracy/"
MOST_SOURCES = 20
MOST_BARS = 150


def accuracy(run: RunData) -> go.Figure:
    """Accuracy on the problems drawn and on the held-out ones."""
    traces = [line(*run.series("accuracy"), "problems drawn", GREY, ".3f", line={"width": 1.5})]
    samples = sorted({key for record in run.evaluations for key in record if key.startswith("eval/avg@")})
    traces += [line(*run.series(key), f"held-out, {key[5:]}", SKY, ".3f") for key in samples]
    if run.evaluations:
        traces.append(line(*run.series("eval/accuracy"), "held-out, greedy", BLUE, ".3f", line={"width": 3}))
    return figure(traces, STEP, "accuracy (share correct)", yaxis_range=[0, 1.02])


def by_source(run: RunData) -> go.Figure | None:
    """Held-out accuracy of each source at each evaluation; None with fewer than two sources."""
    names = sorted({key for record in run.evaluations for key in record if key.startswith(SOURCE_PREFIX)})
    if not 2 <= len(names) <= MOST_SOURCES:
        return None
    steps = [str(record["step"]) for record in run.evaluations]
    shares = np.array(
        [[np.nan if record.get(name) is None else record[name] for record in run.evaluations] for name in names]
    )
    labels = [name.removeprefix(SOURCE_PREFIX) for name in names]
    cells = heat_map(
        steps,
        labels,
        shares,
        "%{y}<br>after step %{x}: %{z:.3f}",
        SHARE_SCALE,
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=2,
        ygap=2,
        **({"texttemplate": "%{z:.2f}"} if len(steps) <= 12 else {}),
    )
    return figure([cells], "evaluated after step", "", xaxis_type="category", hovermode="closest")


def reward(run: RunData) -> go.Figure:
    """Mean reward of a step's rollouts, with their standard deviation."""
    steps, mean = run.series("reward")
    std = run.series("reward_std")[1]
    traces = [line(steps, mean, "mean", BLUE, ".3f")]
    if len(std) == len(mean):
        traces.insert(0, band(steps, mean - std, mean + std, "± 1 standard deviation", BLUE))
    return figure(traces, STEP, "reward")


def seconds(run: RunData) -> go.Figure:
    """Where the seconds of a step went; of many steps, means over runs of neighbours."""
    width = -(-run.steps // MOST_BARS)
    traces = []
    for part, colour in TIME_PARTS.items():
        steps, values = run.series(f"seconds/{part}")
        if not values.any():
            continue
        groups = (steps - 1) // width
        found = np.unique(groups)
        means = [values[groups == group].mean() for group in found]
        centres = found * width + (width + 1) / 2
        hover = f"{part} %{{y:.2f}} s<extra></extra>"
        traces.append(
            go.Bar(x=centres, y=means, name=part, marker={"color": colour, "line": {"width": 0}}, hovertemplate=hover)
        )
    return figure(traces, STEP, "seconds a step", barmode="stack", bargap=0.15, yaxis_rangemode="tozero")


def lengths(run: RunData) -> go.Figure | None:
    """Quantiles of the completions' lengths; the mean alone where rollouts are not kept."""
    if not run.rollouts:
        return figure([line(*run.series("completion_tokens"), "mean", BLUE, ".0f")], STEP, "completion length (tokens)")
    steps = np.array([step.step for step in run.rollouts])
    values = np.array([step.length_quantiles for step in run.rollouts])
    traces = [
        band(steps, values[:, 0], values[:, 4], "5 % to 95 %", BLUE),
        band(steps, values[:, 1], values[:, 3], "25 % to 75 %", BLUE, strength=0.35),
        line(steps, values[:, 2], "median", BLUE, ".0f"),
    ]
    return figure(traces, STEP, "completion length (tokens)", yaxis_rangemode="tozero")


def outcomes(run: RunData) -> go.Figure:
    """Share of each outcome, stacked, and the share of truncated completions."""
    traces = []
    for outcome, colour in OUTCOME_COLOURS.items():
        steps, share = run.series(f"outcome/{outcome}")
        if share.any():
            drawn = line(steps, share, str(outcome), colour, ".1%", mode="lines", line={"width": 0.5})
            traces.append(drawn.update(stackgroup="outcome", fillcolor=colour))
    steps, truncated = run.series("truncated")
    if truncated.any():
        traces.append(line(steps, truncated, "truncated", GREY, ".1%", mode="lines", line={"dash": "dot"}, meta=INK))
    return figure(traces, STEP, "share of rollouts", yaxis_range=[0, 1], yaxis_tickformat=".0%")


def learning_signal(run: RunData) -> dict[str, go.Figure]:
    """Small plots of what the update saw: name -> figure; those without any value are left out."""
    wanted = {
        "informative": ("informative_groups", "share of groups", GREEN, ".1%"),
        "grad_norm": ("grad_norm", "norm before clipping", BLUE, ".3f"),
        "entropy": ("entropy", "nats a token", PURPLE, ".4f"),
        "kl": ("kl", "nats a token", ORANGE, ".2e"),
        "mismatch": ("mismatch_kl", "nats a token", RED, ".2e"),
    }
    made = {}
    for name, (key, label, colour, hover) in wanted.items():
        steps, values = run.series(key)
        if len(values):
            shares = {"yaxis_range": [0, 1.02], "yaxis_tickformat": ".0%"} if name == "informative" else {}
            made[name] = figure([line(steps, values, label, colour, hover)], STEP, label, showlegend=False, **shares)
    return made
