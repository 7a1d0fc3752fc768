"""The plots of a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from gainrl_ray.report.comparison_data import AXES, METRICS, SHARES, ComparisonData
from gainrl_ray.report.plots import BLUE, DASHES, GREY, ORANGE, PALETTE, band, figure, line

MEASURES = {
    "final_accuracy": "final held-out accuracy",
    "steps_to_target": "steps to the target",
    "problems_to_target": "problems to the target",
    "rollouts_to_target": "rollouts to the target",
    "tokens_to_target": "generated tokens to the target",
    "seconds_to_target": "seconds to the target",
    "zero_variance": "groups of equal rewards (share)",
    "grad_norm": "gradient norm",
}


def styles(strategies: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Strategy -> (colour, dash), all different up to 32."""
    return {
        name: (PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)]) for i, name in enumerate(strategies)
    }


def curves(data: ComparisonData) -> dict[str, go.Figure]:
    """ "metric/axis" -> the curves of all strategies with their bands, each strategy a legend group."""
    made = {}
    for metric, label in METRICS.items():
        for axis, (_, axis_label) in AXES.items():
            traces = []
            for strategy, (colour, dash) in styles(data.strategies).items():
                traces += _curve(data, strategy, metric, axis, colour, dash)
            if traces:
                share = {"yaxis_rangemode": "tozero"} if metric in SHARES else {}
                made[f"{metric}/{axis}"] = figure(traces, axis_label, label, showlegend=False, **share)
    return made


def _curve(data: ComparisonData, strategy: str, metric: str, axis: str, colour: str, dash: str) -> list[go.Scatter]:
    found = data.curve(strategy, metric, axis)
    if found is None:
        return []
    group: dict[str, Any] = {"legendgroup": strategy}
    drawn = [line(found.x, found.mean, strategy, colour, ".3f", mode="lines", line={"dash": dash}, **group)]
    if np.isfinite(found.low).all():
        drawn.insert(0, band(found.x, found.low, found.high, strategy, colour, 0.1, **group))
    return drawn


def measures(data: ComparisonData) -> dict[str, go.Figure]:
    """ "mean/measure" and "baseline/measure" -> every strategy's figure, or its difference, with its interval."""
    made = {}
    colours = {strategy: colour for strategy, (colour, _) in styles(data.strategies).items()}
    for measure, label in MEASURES.items():
        means = {row["strategy"]: row["measures"].get(measure) for row in data.table["rows"]}
        made[f"mean/{measure}"] = _intervals(colours, means, "mean", label)
        for baseline in data.table["baselines"]:
            differences = {row["strategy"]: row["against"].get(baseline, {}).get(measure) for row in data.table["rows"]}
            others = {strategy: colour for strategy, colour in colours.items() if strategy != baseline}
            compared = _intervals(others, differences, "difference", f"difference from {baseline}")
            made[f"{baseline}/{measure}"] = compared.add_vline(x=0, line={"width": 1, "color": GREY, "dash": "dot"})
    return made


def _intervals(
    colours: Mapping[str, str], found: Mapping[str, Mapping[str, Any] | None], key: str, label: str
) -> go.Figure:
    """A point with its interval for every strategy, hollow where runs that did not reach the target make it a bound."""
    traces = []
    for strategy, colour in colours.items():
        values = found.get(strategy) or {}
        value = values.get(key)
        if value is None:
            continue
        low, high = values.get("low"), values.get("high")
        known = low is not None and high is not None
        bound = values.get("not_reached") or 0
        hover = f"{strategy}: %{{x:,.4~g}}" + (f" ({low:,.4g} to {high:,.4g})" if known else "")
        traces.append(
            go.Scatter(
                x=[value],
                y=[strategy],
                mode="markers",
                marker={"color": colour, "size": 10, "symbol": "circle-open" if bound else "circle"},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - value if known else 0],
                    "arrayminus": [value - low if known else 0],
                    "color": colour,
                    "visible": known,
                },
                hovertemplate=hover + (f", not reached by {bound}" if bound else "") + "<extra></extra>",
                legendgroup=strategy,
            )
        )
    order = list(colours)[::-1]
    yaxis = {"type": "category", "categoryorder": "array", "categoryarray": order, "title": None, "automargin": True}
    return figure(
        traces, label, "", hovermode="closest", showlegend=False, yaxis=yaxis, xaxis_nticks=6, xaxis_tickangle=0
    )


def diagnostics(signals: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    """Spearman's correlation of each signal with each quantity, plain and given length; None without any."""
    plain = _correlations(signals, ("spearman", "low", "high"), "plain", BLUE, "circle")
    partial = _correlations(signals, ("partial", "partial_low", "partial_high"), "given length", ORANGE, "diamond")
    traces = [trace for trace in (plain, partial) if trace is not None]
    if not traces:
        return None
    layout = {"type": "category", "autorange": "reversed", "title": None, "automargin": True}
    label = "Spearman's rank correlation"
    return figure(traces, label, "", hovermode="closest", xaxis_range=[-1.05, 1.05], yaxis=layout)


def _correlations(
    signals: Sequence[Mapping[str, Any]], keys: tuple[str, str, str], name: str, colour: str, symbol: str
) -> go.Scatter | None:
    """Points with their intervals; None where none is known."""
    rows = [row for row in signals if row.get(keys[0]) is not None]
    if not rows:
        return None
    value, low, high = (
        np.array([row[keys[0]] if row.get(key) is None else row[key] for row in rows], dtype=np.float64) for key in keys
    )
    spread = {"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low, "color": colour}
    return go.Scatter(
        x=value,
        y=[f"{row['signal']} / {row['against']}" for row in rows],
        name=name,
        mode="markers",
        marker={"color": colour, "size": 9, "symbol": symbol},
        error_x=spread,
        hovertemplate=f"%{{y}}: %{{x:.3f}}<extra>{name}</extra>",
    )
