"""The table of a comparison as Markdown, which is also what the console shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from gainrl_ray.comparing.table import TIMES

HEADINGS = {
    "final_accuracy": "final accuracy",
    "steps_to_target": "steps",
    "problems_to_target": "problems",
    "rollouts_to_target": "rollouts",
    "tokens_to_target": "tokens",
    "seconds_to_target": "seconds",
    "zero_variance": "zero-variance groups",
    "grad_norm": "gradient norm",
}
METHOD = (
    'Means over seeds with 95 % intervals by Student\'s t. "≥": some runs did not reach the target and count with all '
    "that they used, a lower bound. Differences are paired by seed, from 5 seeds on with 95 % percentile bootstrap "
    "intervals; these are too narrow for few seeds: with 5 they hold the truth in about 84 % of cases. "
    "Seconds depend on how many runs shared the machine."
)


def to_markdown(table: Mapping[str, Any]) -> str:
    """The page: figures of every arm, differences from each baseline, claims, failed runs."""
    target = table["target_accuracy"]
    to = "no target" if target is None else f"target: held-out accuracy {target:.3f}, seconds with those of scoring"
    parts = [f"# {table['name']}", f"{METHOD}", f"Steps to seconds: {to}.", _figures(table["rows"])]
    parts += [_differences(table["rows"], baseline) for baseline in table["baselines"]]
    if missing := [name for name in ("uniform", "length") if name not in table["baselines"]]:
        parts.append(f"No arm is named {' or '.join(missing)}, so nothing is compared with it.")
    if table["claims"]:
        parts.append("## Published claims\n\n" + "\n".join(map(_claim, table["claims"])))
    if table["failed"]:
        lines = [f"- {run['strategy']}, seed {run['seed']}: {run['error']}" for run in table["failed"]]
        parts.append("## Failed runs\n\n" + "\n".join(line.replace("\n", "\n  ") for line in lines))
    return "\n\n".join(parts) + "\n"


def _figures(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        runs = f"{row['runs']}" + (f" (+{row['failed']} failed)" if row["failed"] else "")
        cells.append([row["strategy"], runs, *(_figure(name, row["measures"][name]) for name in HEADINGS)])
    return aligned(["strategy", "runs", *HEADINGS.values()], cells)


def _figure(measure: str, found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "-"
    if found["not_reached"] == found["runs"]:
        return f"not reached (≥ {_number(measure, found['mean'])})"
    text = ("≥ " if found["not_reached"] else "") + _interval(measure, found, "mean")
    return text + (f", {found['not_reached']} of {found['runs']} not reached" if found["not_reached"] else "")


def _differences(rows: Sequence[Mapping[str, Any]], baseline: str) -> str:
    cells = []
    for row in rows:
        against = row["against"].get(baseline)
        if against is not None:
            seeds = str(against["final_accuracy"]["seeds"])
            cells.append([row["strategy"], seeds, *(_difference(name, against[name]) for name in HEADINGS)])
            if baseline == "uniform":
                cells[-1].append(_ratio(row["speedup"]))
    headings = ["strategy", "seeds", *HEADINGS.values()]
    if baseline == "uniform":
        headings.append("times fewer steps to uniform's final accuracy")
    return f"## Difference from {baseline}\n\n" + aligned(headings, cells)


def _difference(measure: str, found: Mapping[str, Any]) -> str:
    if found["difference"] is None:
        return "-"
    return _interval(measure, found, "difference", sign="+") + _censored(found)


def _ratio(found: Mapping[str, Any]) -> str:
    if found["ratio"] is None:
        return "-"
    at_most = "≤ " if found["not_reached"] else ""
    return at_most + f"{found['ratio']:.2f}{_bounds(found, '.2f')}" + _censored(found)


def _censored(found: Mapping[str, Any]) -> str:
    return f", {found['not_reached']} of {found['seeds']} not reached" if found["not_reached"] else ""


def _claim(claim: Mapping[str, Any]) -> str:
    verdict = {True: "holds", False: "does not hold", None: "undecided"}[claim["holds"]]
    measured = "not measured"
    if claim["measured"] is not None:
        at_most = "at most " if claim["not_reached"] else ""
        measured = f"measured {at_most}{claim['measured']:.3f}{_bounds(claim, '.3f')} over {claim['seeds']} seeds"
    return f"- {claim['claim']}: published {claim['published']:g}, {measured}{_censored(claim)}: {verdict}"


def _interval(measure: str, found: Mapping[str, Any], key: str, sign: str = "") -> str:
    return _number(measure, found[key], sign) + _bounds(found, f"{sign}z{_form(measure)}")


def _bounds(found: Mapping[str, Any], form: str) -> str:
    return "" if found["low"] is None else f" [{found['low']:{form}}, {found['high']:{form}}]"


def _number(measure: str, value: float, sign: str = "") -> str:
    return f"{value:{sign}z{_form(measure)}}"  # z: no negative zero


def _form(measure: str) -> str:
    if measure == "steps_to_target":
        return ".1f"
    return ",.0f" if measure in TIMES else ".3f"


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are also columns in a terminal."""
    widths = [max(len(row[place]) for row in (headings, *rows)) for place in range(len(headings))]
    lines = [headings, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
