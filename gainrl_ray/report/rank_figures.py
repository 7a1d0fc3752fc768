"""The plots over ranks: which problems were drawn, and which were mastered, when."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go

from gainrl_ray.report.plots import DENSITY_SCALE, ORANGE, SHARE_SCALE, figure, heat_map
from gainrl_ray.report.provenance import Ordering
from gainrl_ray.report.rollouts import StepRollouts
from gainrl_ray.report.run_data import RunData

RANK_BINS = 40
STEP_BINS = 120
FEW = 13
"""Up to so many ranks or steps have a tick each."""
CROPPED = 0.5
"""Ranks beyond the highest drawn one are left out when it is below this share of all."""

SIGNAL_WORDS = {"angle": "by falling angle concentration", "length": "by prompt length", "none": "dataset order"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCells:
    """Groups counted in cells of neighbouring ranks and neighbouring steps, arrays [ranks, steps]."""

    rank_edges: np.ndarray  # [ranks + 1] int64, first rank of each bin and the end
    step_edges: np.ndarray  # [steps + 1] int64
    drawn: np.ndarray  # groups in the cell
    correct: np.ndarray  # sum of their accuracies

    @property
    def density(self) -> np.ndarray:
        """Share of a column's groups that fell into the cell; NaN where none did."""
        totals = np.maximum(self.drawn.sum(axis=0, keepdims=True), 1)
        return np.where(self.drawn > 0, self.drawn / totals, np.nan)

    @property
    def accuracy(self) -> np.ndarray:
        """Mean accuracy of the cell's groups; NaN where there are none."""
        return np.where(self.drawn > 0, self.correct / np.maximum(self.drawn, 1), np.nan)


def rank_cells(steps: Sequence[StepRollouts], ordering: Ordering) -> RankCells:
    """The groups of all steps by rank and step. `steps` has one at least, in rising order."""
    ranks = ordering.ranks(np.concatenate([step.rows for step in steps]))
    numbers = np.concatenate([np.full(len(step.rows), step.step) for step in steps])
    accuracy = np.concatenate([step.accuracy for step in steps])
    highest = int(ranks.max()) + 1
    end = highest if highest < ordering.problems * CROPPED else max(ordering.problems, highest)
    rank_edges = _edges(0, end, RANK_BINS)
    step_edges = _edges(1, steps[-1].step + 1, STEP_BINS)
    edges = (rank_edges - 0.5, step_edges - 0.5)
    drawn = np.histogram2d(ranks, numbers, bins=edges)[0]
    correct = np.histogram2d(ranks, numbers, bins=edges, weights=accuracy)[0]
    return RankCells(rank_edges=rank_edges, step_edges=step_edges, drawn=drawn, correct=correct)


def window(run: RunData, cells: RankCells) -> go.Figure:
    """Where in the order each step's problems were drawn, with mu and sigma where the curriculum has them."""
    drawn = _cells(
        cells,
        cells.density,
        "%{z:.1%} of the problems drawn",
        DENSITY_SCALE,
        zmin=0,
        zmax=float(np.nanmax(cells.density)),
    )
    traces: list[go.Scatter | go.Heatmap] = [drawn]
    steps, mu = run.series("curriculum/mu")
    widths, sigma = run.series("curriculum/sigma")
    after = steps + 0.5  # between the step that moved mu and the one that is drawn with it
    if len(mu):
        hover = "mu %{y:,.0f}<extra></extra>"
        outlined = {"color": ORANGE, "width": 3}
        mode = "lines" if len(mu) > 1 else "markers"
        traces.append(go.Scatter(x=after, y=mu, name="mu", mode=mode, line=outlined, hovertemplate=hover))
    if len(mu) and np.array_equal(steps, widths):
        thin = {"color": ORANGE, "width": 1.5, "dash": "dot"}
        for sign, shown in ((1, True), (-1, False)):
            edge = np.clip(mu + sign * sigma, 0, cells.rank_edges[-1])
            traces.append(
                go.Scatter(
                    x=after, y=edge, name="mu ± sigma", mode="lines", line=thin, hoverinfo="skip", showlegend=shown
                )
            )
    return _over_ranks(run, cells, traces)


def mastery(run: RunData, cells: RankCells) -> go.Figure:
    """Mean accuracy of the problems drawn from each part of the order, step by step."""
    traces = [_cells(cells, cells.accuracy, "accuracy %{z:.3f}", SHARE_SCALE, zmin=0, zmax=1)]
    return _over_ranks(run, cells, traces)


def rank_label(ordering: Ordering) -> str:
    """What the axis of ranks says."""
    if ordering.order is None:
        return "dataset row"
    return f"rank ({SIGNAL_WORDS.get(ordering.signal, f'by {ordering.signal}')})"


def _over_ranks(run: RunData, cells: RankCells, traces: Sequence[go.Scatter | go.Heatmap]) -> go.Figure:
    return figure(
        traces,
        "step",
        rank_label(run.ordering),
        hovermode="closest",
        yaxis_range=[-0.5, float(cells.rank_edges[-1]) - 0.5],
        yaxis_tickformat=",d",
        xaxis_tickformat=",d",
        **({"yaxis_dtick": 1} if cells.rank_edges[-1] <= FEW else {}),
        **({"xaxis_dtick": 1} if cells.step_edges[-1] <= FEW else {}),
        xaxis_range=[0.5, float(cells.step_edges[-1]) - 0.5],
    )


def _cells(cells: RankCells, values: np.ndarray, what: str, scale: object, **more: float) -> go.Heatmap:
    ranks, steps = cells.rank_edges, cells.step_edges
    shape = (*cells.drawn.shape, 3)
    details = np.empty(shape, dtype=object)
    details[..., 0] = np.array([_span("ranks", "rank", a, b) for a, b in pairwise(ranks)])[:, None]
    details[..., 1] = np.array([_span("steps", "step", a, b) for a, b in pairwise(steps)])[None, :]
    details[..., 2] = cells.drawn.astype(int)
    return heat_map(
        (steps[:-1] + steps[1:] - 1) / 2,
        (ranks[:-1] + ranks[1:] - 1) / 2,
        values,
        f"%{{customdata[0]}}, %{{customdata[1]}}<br>{what}<br>%{{customdata[2]}} problems",
        scale,
        customdata=details,
        **more,
    )


def _edges(start: int, end: int, most: int) -> np.ndarray:
    """[bins + 1] whole numbers from `start` to `end`, at most `most` bins, none empty."""
    return np.linspace(start, end, min(most, end - start) + 1).round().astype(np.int64)


def _span(plural: str, singular: str, start: int, end: int) -> str:
    return f"{singular} {start:,}" if end - start == 1 else f"{plural} {start:,} to {end - 1:,}"
