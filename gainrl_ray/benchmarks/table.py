"""Figures as a table: median, min and max of each, what is not repeated below."""

from typing import Any

from gainrl_ray.benchmarks.timing import Spread


def render(figures: dict[str, Any]) -> str:
    """Text of nested figures whose leaves are Spread, numbers or text."""
    leaves = list(_leaves(figures))
    spreads = [(name, value) for name, value in leaves if isinstance(value, Spread)]
    width = max((len(name) for name, _ in leaves), default=0)
    lines = []
    if spreads:
        lines.append(f"{'':<{width}}  {'median':>10}  {'min':>10}  {'max':>10}")
        for name, value in spreads:
            cells = (value.median, value.low, value.high)
            lines.append(f"{name:<{width}}  " + "  ".join(f"{_number(cell):>10}" for cell in cells))
    for name, value in leaves:
        if not isinstance(value, Spread):
            lines.append(f"{name:<{width}}  {_number(value) if isinstance(value, float) else value}")
    return "\n".join(lines)


def _leaves(figures: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """(names joined by a colon, value) in the order of the figures."""
    found = []
    for name, value in figures.items():
        full = f"{path}: {name}" if path else name
        found += _leaves(value, full) if isinstance(value, dict) else [(full, value)]
    return found


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
