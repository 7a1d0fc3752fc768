"""The report of a comparison as one HTML page."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gainrl_ray.report import comparison_figures
from gainrl_ray.report.comparison_data import AXES, LEAST_SEEDS, METRICS, ComparisonData
from gainrl_ray.report.comparison_figures import MEASURES
from gainrl_ray.report.page import page, plot, section, short, table, tiles
from gainrl_ray.report.plots import as_json

SHARE_MEASURES = ("final_accuracy", "zero_variance", "grad_norm")
METHOD = (
    "Means over seeds, with 95 % intervals in brackets. ≥: some runs did not reach the target and count with all that "
    "they used, so the mean is a lower bound; such points are hollow."
)


def comparison_page(data: ComparisonData, version: str = "") -> str:
    """The page of a comparison as far as it has come; `version` as in `page.page`."""
    drawn = comparison_figures.curves(data) | comparison_figures.measures(data)
    signals = comparison_figures.diagnostics(data.signals)
    if signals is not None:
        drawn["signals"] = signals
    rows, target, claims = (data.table[key] for key in ("rows", "target_accuracy", "claims"))
    runs = sum(row["runs"] for row in rows)
    about = f"{len(rows)} strategies · {runs} runs · written {time.strftime('%Y-%m-%d %H:%M:%S')}"
    body = "".join(
        (
            tiles(_numbers(data)),
            _curves(data) if data.runs else "",
            section("measures", "Measures", _measures(data)),
            *(_differences(data, baseline) for baseline in data.table["baselines"]),
            section("claims", "Published claims", _plain(map(_claim, claims))) if claims else "",
            _diagnostics(data),
            section("failed", "Failed runs", _plain(data.table["failed"])) if data.table["failed"] else "",
        )
    )
    return page(
        title=f"Comparison {data.table['name']}",
        subtitle=about if target is None else f"{about} · target: held-out accuracy {target:.3f}",
        body=body,
        data={
            "plots": as_json(drawn),
            "styles": comparison_figures.styles(data.strategies),
            "metrics": METRICS,
            "axes": {name: label for name, (_, label) in AXES.items()},
            "measures": MEASURES,
            "baselines": data.table["baselines"],
        },
        scripts=("comparison.js",),
        version=version,
    )


def _numbers(data: ComparisonData) -> list[tuple[str, str, str]]:
    """The figures that come first: the best strategy of each kind."""
    rows, found = data.table["rows"], []
    for measure, better in (("final_accuracy", max), ("steps_to_target", min), ("seconds_to_target", min)):
        known = [
            (row["measures"][measure]["mean"], row["strategy"])
            for row in rows
            if row["measures"].get(measure, {}).get("mean") is not None
            and not row["measures"][measure].get("not_reached")
        ]
        if known:
            value, strategy = better(known)
            name = {"final_accuracy": "best final accuracy"}.get(measure, f"fewest {MEASURES[measure]}")
            found.append((name, number(measure, value), strategy))
    failed = len(data.table["failed"])
    found.append(("runs", f"{sum(row['runs'] for row in rows):,}", f"{failed} failed" if failed else "none failed"))
    return found


def _curves(data: ComparisonData) -> str:
    fewest = f" Strategies of fewer than {LEAST_SEEDS} seeds have no band." if _has_few(data) else ""
    note = f"Bands are 95 % intervals of the mean by Student's t.{fewest}"
    return section(
        "curves",
        "Curves",
        '<div class="controls" id="curve-controls"></div><div class="chips" id="strategies"></div>',
        plot("curve", "Means over seeds", note, "tall"),
    )


def _has_few(data: ComparisonData) -> bool:
    return any(len(seeds) < LEAST_SEEDS for seeds in data.runs.values())


def _measures(data: ComparisonData) -> str:
    rows = []
    for row in data.table["rows"]:
        runs = f"{row['runs']}" + (f" (+{row['failed']} failed)" if row["failed"] else "")
        rows.append([row["strategy"], runs, *(figure(name, row["measures"].get(name)) for name in MEASURES)])
    return (
        '<div class="controls" id="measure-controls"></div>'
        + '<div class="grid">'
        + plot("measure", "Means", rows=len(rows))
        + (plot("difference", "Differences", rows=len(rows)) if data.table["baselines"] else "")
        + "</div>"
        + f'<p class="note">{METHOD}</p>'
        + table(["strategy", "runs", *MEASURES.values()], rows, key="strategy")
    )


def _differences(data: ComparisonData, baseline: str) -> str:
    compared = [row for row in data.table["rows"] if baseline in row["against"]]
    headings = ["strategy", *MEASURES.values()]
    rows = [
        [row["strategy"], *(difference(name, row["against"][baseline].get(name)) for name in MEASURES)]
        for row in compared
    ]
    if baseline == "uniform" and any("speedup" in row for row in compared):
        headings.insert(1, "times fewer steps to uniform's final accuracy")
        for cells, row in zip(rows, compared, strict=True):
            cells.insert(1, ratio(row.get("speedup")))
    note = (
        '<p class="note">Paired by seed, from 5 seeds on with 95 % bootstrap intervals. '
        "*: the interval does not hold 0.</p>"
    )
    title = f"Difference from {baseline}"
    return section(f"against-{baseline}", title, note, table(headings, rows, key="strategy"))


def _diagnostics(data: ComparisonData) -> str:
    if not data.signals:
        return ""
    note = (
        "Rank correlation of each signal with what it may stand for, alone and with prompt length held fixed, "
        "with 95 % bootstrap intervals. A signal whose correlations vanish given length says no more than length does."
    )
    rows = [
        [
            row["signal"],
            row["against"],
            _interval([row.get(key) for key in ("spearman", "low", "high")]),
            _interval([row.get(key) for key in ("partial", "partial_low", "partial_high")]),
            f"{row['problems']:,}",
        ]
        for row in data.signals
    ]
    headings = ["signal", "against", "Spearman", "given prompt length", "problems"]
    return section("signals", "Signals", plot("signals", "Correlations", note, rows=len(rows)), table(headings, rows))


def figure(measure: str, found: Mapping[str, Any] | None) -> str:
    """A measure with its interval and how many runs did not reach the target."""
    if found is None or found["mean"] is None:
        return "not reached" if found and found.get("not_reached") else "-"
    missed = found.get("not_reached") or 0
    if missed and missed == found["runs"]:
        return f"not reached\n(≥ {number(measure, found['mean'])})"
    text = ("≥ " if missed else "") + number(measure, found["mean"]) + _bounds(measure, found)
    return text + (f"\n{missed} of {found['runs']} not reached" if missed else "")


def difference(measure: str, found: Mapping[str, Any] | None) -> str:
    """A difference with its interval, marked by * when that does not hold 0."""
    if found is None or found["difference"] is None:
        return "-"
    low, high = found["low"], found["high"]
    mark = " *" if low is not None and high is not None and (low > 0 or high < 0) else ""
    missed = found.get("not_reached") or 0
    unsure = f"\n{missed} not reached" if missed else ""
    return f"{number(measure, found['difference'], '+')}{mark}{_bounds(measure, found, '+')}{unsure}"


def ratio(found: Mapping[str, Any] | None) -> str:
    """How many times fewer, with its interval; an upper bound where some runs did not come that far."""
    if found is None or found["ratio"] is None:
        return "-"
    missed = found.get("not_reached") or 0
    bounds = "" if found["low"] is None or found["high"] is None else f"\n[{found['low']:.2f}, {found['high']:.2f}]"
    return ("≤ " if missed else "") + f"{found['ratio']:.2f}{bounds}" + (f"\n{missed} not reached" if missed else "")


def number(measure: str, value: float, sign: str = "") -> str:
    """A figure in the digits that its measure deserves."""
    if measure in SHARE_MEASURES:
        return f"{value:{sign}.3f}"
    return f"{'-' if value < 0 else sign}{short(abs(value))}"


def _bounds(measure: str, found: Mapping[str, Any], sign: str = "") -> str:
    if found["low"] is None or found["high"] is None:
        return ""
    return f"\n[{number(measure, found['low'], sign)}, {number(measure, found['high'], sign)}]"


def _interval(values: Sequence[float | None]) -> str:
    value, low, high = values
    if value is None:
        return "-"
    return f"{value:+.3f}" + ("" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]")


def _claim(claim: Mapping[str, Any]) -> dict[str, Any]:
    """A claim whose bound shows as one: where runs did not reach what is counted, it is at most that."""
    return {**claim, "measured": ("≤ " if claim.get("not_reached") else "") + _text("measured", claim.get("measured"))}


def _plain(rows: Iterable[Mapping[str, Any]]) -> str:
    """Mappings as a table of their keys."""
    rows = list(rows)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return table([key.replace("_", " ") for key in keys], [[_text(key, row.get(key)) for key in keys] for row in rows])


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "open" if key == "holds" else "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
