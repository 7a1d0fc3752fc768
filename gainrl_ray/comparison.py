"""The verb compare: a grid of runs, as many at a time as the cluster has room for, and the table of what they came to.

Every run is an ordinary one, so that a comparison which was killed or stopped goes on where its runs left off.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gainrl_ray.actors.lanes import Lanes
from gainrl_ray.actors.resources import budget, preflight, side_by_side, threads
from gainrl_ray.actors.session import cluster_supply
from gainrl_ray.cli import Named, diff_configs
from gainrl_ray.comparing.command import Comparison
from gainrl_ray.comparing.curves import cell_records, curves, is_finished
from gainrl_ray.comparing.grid import Arm, Cell, Grid, arms_text, changes, read_arms
from gainrl_ray.comparing.markdown import to_markdown
from gainrl_ray.comparing.schedule import Schedule
from gainrl_ray.comparing.table import make_table, runs_by_arm
from gainrl_ray.data.signal_store import DIAGNOSTICS_FILE
from gainrl_ray.diagnosis import diagnose, document
from gainrl_ray.errors import ConfigError
from gainrl_ray.placement import place
from gainrl_ray.report.comparison_data import COMPARISONS, CURVES_FILE, TABLE_FILE
from gainrl_ray.report.writing import write_comparison_report
from gainrl_ray.storage import Storage
from gainrl_ray.training import Say, prepare

ARMS_FILE, MARKDOWN_FILE = "comparison.yaml", "table.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonResult:
    """What a comparison came to so far."""

    folder: str
    table: dict[str, Any]  # as in table.json
    unfinished: int  # runs that were stopped or not begun


def compare(comparison: Comparison, say: Say = print) -> ComparisonResult:
    """The runs of the grid that are not there yet, then its curves and table in `<storage>/comparisons/<name>`.

    Ray must be connected. A run that fails is listed, and begun again by the next call. Progress goes to `say`.

    Raises:
        GainrlError: a grid of that name with other settings, or what all runs would end by.
    """
    grid = comparison.grid
    folder = Storage(comparison.base.run.storage).child(COMPARISONS, grid.name)
    _take_up(grid, folder)
    pending = [cell for cell in grid.cells if not is_finished(cell, cell_records(cell))]
    begin = f"comparison {grid.name}: {len(grid.cells)} runs ({len(grid.arms)} arms)"
    say(f"{begin}, {len(grid.cells) - len(pending)} done; --name={grid.name} continues it")
    tell = _each_once(say)
    if comparison.diagnose and not folder.exists(DIAGNOSTICS_FILE):
        folder.write_text(DIAGNOSTICS_FILE, json.dumps(document(diagnose(comparison.base, say)), indent=1))
    scoring_seconds = {cell.run_name: prepare(cell.config, cell.run_name, tell) for cell in grid.cells}
    failed: list[dict[str, Any]] = []
    if pending:
        failed = Schedule(pending, len(grid.cells), _lanes(comparison, pending, say), say).run()
    table = _write(grid, folder, scoring_seconds, failed)
    unfinished = len(grid.cells) - sum(row["runs"] for row in table["rows"]) - len(failed)
    say("\n" + to_markdown(table) + f"\nreport: {write_comparison_report(folder)}")
    if unfinished:
        say(f"{unfinished} of {len(grid.cells)} runs are not finished: --name={grid.name} continues")
    return ComparisonResult(folder=folder.uri, table=table, unfinished=unfinished)


def placed(comparison: Comparison, named: Named, say: Say = print) -> Comparison:
    """The comparison on the cluster's GPUs where neither base nor arm chooses, see placement.place; one that is
    continued stays where it was."""
    base, grid, tell = comparison.base, comparison.grid, _each_once(say)
    folder = Storage(base.run.storage).child(COMPARISONS, grid.name)
    arms: dict[str, Arm] = {}
    if folder.exists(ARMS_FILE):
        arms = read_arms(folder.read_text(ARMS_FILE), folder.child(ARMS_FILE).uri)
    stored = next((arm.config for arm in arms.values()), None)

    def place_arm(arm: Arm) -> Arm:
        own = frozenset(change.partition(":")[0] for change in diff_configs(base, arm.config))
        known = Named(anywhere=named.anywhere | own, by_user=named.by_user | own)
        before = arms[arm.name].config if arm.name in arms else stored
        return replace(arm, config=place(arm.config, known, stored=before, say=tell))

    grid = replace(grid, arms=tuple(map(place_arm, grid.arms)))
    return replace(comparison, base=place(base, named, stored=stored, say=tell), grid=grid)


def _take_up(grid: Grid, folder: Storage) -> None:
    """Keep the grid's settings in its folder. Raises ConfigError when one that has begun had others."""
    if folder.exists(ARMS_FILE):
        stored = read_arms(folder.read_text(ARMS_FILE), folder.child(ARMS_FILE).uri)
        begun = {name: arm for name, arm in stored.items() if _has_begun(grid.name, arm)}
        if found := changes(begun, grid):
            raise ConfigError(
                f"comparison {grid.name!r} in {folder.uri} was started with other settings:\n  "
                + "\n  ".join(found)
                + "\nuse the same ones (arms and seeds may be added), or another --name"
            )
    folder.write_text(ARMS_FILE, arms_text(grid))


def _has_begun(name: str, arm: Arm) -> bool:
    cells = Grid(name=name, arms=(arm,), target_accuracy=None).cells
    return any(record["step"] > 0 for cell in cells for record in cell_records(cell))


def _each_once(say: Say) -> Say:
    said: set[str] = set()

    def tell(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    return tell


def _lanes(comparison: Comparison, pending: Sequence[Cell], say: Say) -> Lanes:
    """As many lanes as the cluster has room for, within what was asked for. Raises ResourceError when none fits."""
    budgets = list({budget(cell.config) for cell in pending})
    supply, autoscaling = cluster_supply(), comparison.base.ray.autoscaling
    for need in budgets:
        preflight(need, supply, autoscaling)
    most = min(len(pending), comparison.parallel or len(pending))
    if busy := max(threads(cell.config) for cell in pending):
        most = min(most, int(supply.get("CPU", 0) // busy))
    count = max(1, side_by_side(budgets, supply, most))
    say(f"{count} at a time: {preflight(budgets[0], supply, autoscaling)}")
    return Lanes(count)


def _write(
    grid: Grid, folder: Storage, scoring_seconds: dict[str, float], failed: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write curves and table of the finished runs; the table."""
    runs = [(cell, cell_records(cell)) for cell in grid.cells]
    rows = curves([run for run in runs if is_finished(*run)], scoring_seconds)
    table = make_table(
        grid.name,
        runs_by_arm(rows),
        strategies=[arm.name for arm in grid.arms],
        target_accuracy=grid.target_accuracy,
        failed=failed,
        gain_arms=[arm.name for arm in grid.arms if arm.is_gain_rl],
    )
    folder.write_table(CURVES_FILE, rows)
    folder.write_text(TABLE_FILE, json.dumps(table, indent=1, allow_nan=False))
    folder.write_text(MARKDOWN_FILE, to_markdown(table))
    return table
