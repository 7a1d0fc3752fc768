"""The plots of a run but for those over ranks."""

from collections.abc import Sequence
from typing import Any

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
FEW_STEPS = 12


def accuracy(run: RunData) -> go.Figure:
    """Accuracy on the problems drawn and on the held-out ones."""
    traces = [line(*run.series("accuracy"), "problems drawn", GREY, ".3f", line={"width": 1.5})]
    samples = sorted({key for record in run.evaluations for key in record if key.startswith("eval/avg@")})
    traces += [line(*run.series(key), f"held-out, {key[5:]}", SKY, ".3f") for key in samples]
    if run.evaluations:
        traces.append(line(*run.series("eval/accuracy"), "held-out, greedy", BLUE, ".3f", line={"width": 3}))
    start = 0 if run.evaluations else 1
    return _over_steps(run, traces, "accuracy (share correct)", start=start, yaxis_range=[0, 1.02])


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
    return _over_steps(run, traces, "reward")


def seconds(run: RunData) -> go.Figure:
    """Where the seconds of a step went."""
    bars = [_bars(run, f"seconds/{part}", part, colour, ".2f") for part, colour in TIME_PARTS.items()]
    return _over_steps(run, [*filter(None, bars)], "seconds a step", barmode="stack", yaxis_rangemode="tozero")


def lengths(run: RunData) -> go.Figure:
    """Quantiles of the completions' lengths; the mean alone where rollouts are not kept."""
    if not run.rollouts:
        mean = line(*run.series("completion_tokens"), "mean", BLUE, ".0f")
        return _over_steps(run, [mean], "completion length (tokens)", yaxis_rangemode="tozero")
    steps = np.array([step.step for step in run.rollouts])
    values = np.array([step.length_quantiles for step in run.rollouts])
    traces = [
        band(steps, values[:, 0], values[:, 4], "5 % to 95 %", BLUE),
        band(steps, values[:, 1], values[:, 3], "25 % to 75 %", BLUE, strength=0.35),
        line(steps, values[:, 2], "median", BLUE, ".0f"),
    ]
    return _over_steps(run, traces, "completion length (tokens)", yaxis_rangemode="tozero")


def outcomes(run: RunData) -> go.Figure:
    """Share of each outcome, stacked, and the share of truncated completions."""
    bars = [_bars(run, f"outcome/{name}", str(name), colour, ".1%") for name, colour in OUTCOME_COLOURS.items()]
    traces: list[go.Bar | go.Scatter] = [*filter(None, bars)]
    steps, truncated = run.series("truncated")
    if truncated.any():
        traces.append(line(steps, truncated, "truncated", GREY, ".1%", line={"dash": "dot"}, meta=INK))
    shares = {"yaxis_range": [0, 1], "yaxis_tickformat": ".0%"}
    return _over_steps(run, traces, "share of rollouts", barmode="stack", **shares)


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
            drawn = line(steps, values, label, colour, hover)
            made[name] = _over_steps(run, [drawn], label, showlegend=False, **shares)
    return made


def _over_steps(
    run: RunData, traces: Sequence[go.Bar | go.Scatter], y: str, *, start: int = 1, **layout: Any
) -> go.Figure:
    """Curves or bars over the steps from `start`, with a tick for each of few steps."""
    margin = max(0.5, 0.01 * run.steps)
    layout |= {"xaxis_range": [start - margin, max(run.steps, start) + margin], "xaxis_tickformat": ",d"}
    return figure(traces, STEP, y, bargap=0.15, **layout, **({"xaxis_dtick": 1} if run.steps <= FEW_STEPS else {}))


def _bars(run: RunData, key: str, name: str, colour: str, hover: str) -> go.Bar | None:
    """A figure as bars to be stacked, of many steps means over neighbours; None when it is always 0."""
    width = -(-run.steps // MOST_BARS)
    steps, values = run.series(key)
    if not values.any():
        return None
    groups = (steps - 1) // width
    found = np.unique(groups)
    return go.Bar(
        x=found * width + (width + 1) / 2,
        y=[values[groups == group].mean() for group in found],
        name=name,
        marker={"color": colour, "line": {"width": 0}},
        hovertemplate=f"%{{y:{hover}}}",
    )
