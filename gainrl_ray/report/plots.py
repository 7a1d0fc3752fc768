"""The look that all plots share: colours, axes, bands. What depends on light or dark is added by page.js."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

BLUE, ORANGE, GREEN, PURPLE, RED, GREY, GOLD, SKY = (
    *("#2b7bba", "#d9730d", "#17926b", "#b85aa0", "#c8463c", "#7d8590", "#a98600", "#4aa3c7"),
)
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, RED, GOLD, SKY, GREY)
"""Told apart with any colour vision, and with a contrast of 3 to white and to near-black."""
DASHES = ("solid", "dash", "dot", "dashdot")
SHARE_SCALE = ((0.0, "#46479c"), (0.25, "#2a788e"), (0.5, "#22a884"), (0.75, "#7ad151"), (1.0, "#fde725"))
"""Of shares from 0 to 1: viridis without its dark end, so that 0 differs from an empty cell on any background."""
DENSITY_SCALE = ((0.0, "rgba(43,123,186,0.12)"), (1.0, "rgba(43,123,186,1)"))
"""Of densities, which fade into the background."""
INK = "ink"
"""As a trace's `meta`: its line has the colour of text."""


def figure(traces: Sequence[Any], x: str, y: str, **layout: Any) -> go.Figure:
    """A figure with labelled axes, without a title: the page gives it, with an explanation."""
    base: dict[str, Any] = {
        "template": None,
        "xaxis": {"title": {"text": x}, "automargin": True, "zeroline": False},
        "yaxis": {"title": {"text": y}, "automargin": True, "exponentformat": "power"},
        "hovermode": "x unified",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
    }
    made = go.Figure(data=list(traces), layout=base)
    made.update_layout(**layout)
    return made


def line(x: np.ndarray, y: np.ndarray, name: str, colour: str, hover: str, **more: Any) -> go.Scatter:
    """A curve; `hover` is the format of its values, such as ".3f". Few points are marked, too."""
    mode = "lines+markers" if len(x) <= 60 else "lines"
    style = {"color": colour, "width": 2, **more.pop("line", {})}
    defaults: dict[str, Any] = {"mode": mode, "marker": {"color": colour, "size": 6}} | more
    return go.Scatter(x=x, y=y, name=name, line=style, hovertemplate=f"%{{y:{hover}}}", **defaults)


def band(
    x: np.ndarray, low: np.ndarray, high: np.ndarray, name: str, colour: str, strength: float = 0.18, **more: Any
) -> go.Scatter:
    """The area between two curves; of a single point, a vertical bar of the same meaning."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        name=name,
        mode="lines",
        line={"color": colour, "width": 0 if len(x) > 1 else 8},
        opacity=1.0 if len(x) > 1 else 0.4,
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},{strength})",
        hoverinfo="skip",
        **more,
    )


def heat_map(
    x: Sequence[Any] | np.ndarray, y: Sequence[Any] | np.ndarray, z: np.ndarray, hover: str, scale: Any, **more: Any
) -> go.Heatmap:
    """Cells of shares, [rows, columns]; NaN cells stay empty. x, y: centres of the cells, or their names."""
    return go.Heatmap(
        x=x,
        y=y,
        z=z,
        hovertemplate=hover + "<extra></extra>",
        hoverongaps=False,
        colorscale=scale,
        colorbar={"thickness": 12, "outlinewidth": 0, "tickformat": ".0%", "len": 0.9},
        **more,
    )


def as_json(figures: Mapping[str, go.Figure]) -> dict[str, Any]:
    """Figures by name as what plotly.js draws."""
    return {name: made.to_plotly_json() for name, made in figures.items()}
