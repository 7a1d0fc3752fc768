"""The verb compare: a grid of runs, as many at a time as the cluster has room for, and the table of what they came to.

Every run is an ordinary one, so that a comparison which was killed or stopped goes on where its runs left off.
"""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gainrl_ray.actors.lanes import Ended, Lanes
from gainrl_ray.actors.pipeline_actor import engine_settings
from gainrl_ray.actors.resources import budget, preflight, side_by_side
from gainrl_ray.actors.run import Pipelines, stop_signals
from gainrl_ray.actors.session import cluster_supply
from gainrl_ray.comparing.command import Comparison
from gainrl_ray.comparing.curves import CURVES_FILE, cell_records, curves, is_finished
from gainrl_ray.comparing.grid import Arm, Cell, Grid, arms_text, changes, read_arms
from gainrl_ray.comparing.markdown import to_markdown
from gainrl_ray.comparing.table import make_table, runs_by_arm
from gainrl_ray.errors import ConfigError
from gainrl_ray.storage import Storage
from gainrl_ray.training import RunSummary, Say, prepare, train

COMPARISONS = "comparisons"
ARMS_FILE, TABLE_FILE, MARKDOWN_FILE = "comparison.yaml", "table.json", "table.md"
POLL_S = 0.5


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
    scoring_seconds = {arm.name: prepare(_first_run(grid, arm), say) for arm in grid.arms}
    failed: list[dict[str, Any]] = []
    if pending:
        failed = _Schedule(pending, len(grid.cells), _lanes(comparison, pending, say), say).run()
    table = _write(grid, folder, scoring_seconds, failed)
    unfinished = len(grid.cells) - sum(row["runs"] for row in table["rows"]) - len(failed)
    say("\n" + to_markdown(table) + f"\n{folder.uri}")
    if unfinished:
        say(f"{unfinished} of {len(grid.cells)} runs are not finished: --name={grid.name} continues")
    return ComparisonResult(folder=folder.uri, table=table, unfinished=unfinished)


def run_cell(cell: Cell, pipelines: Pipelines) -> RunSummary:
    """The summary of a cell's run, in a lane's process."""
    return train(cell.config, cell.run_name, lambda _line: None, pipelines)


class _Schedule:
    """Hands cells to lanes until all have ended or a stop was asked for."""

    def __init__(self, cells: Sequence[Cell], total: int, lanes: Lanes, say: Say) -> None:
        self._waiting, self._lanes, self._say = list(cells), lanes, say
        self._total, self._done, self._begun = total, total - len(cells), total - len(cells)
        self._running: dict[int, tuple[Cell, float]] = {}
        self._settings: dict[int, tuple[Any, ...]] = {}
        self._failed: list[dict[str, Any]] = []
        self._seconds: list[float] = []
        self._stopping = threading.Event()

    def run(self) -> list[dict[str, Any]]:
        """Strategy, seed and error of each cell that failed."""
        try:
            with stop_signals(self._request_stop):
                while self._give_out() or self._running:
                    for ended in self._lanes.ended(POLL_S):
                        self._take(ended)
        finally:
            self._lanes.close()
        return self._failed

    def _request_stop(self) -> None:
        self._stopping.set()
        self._say("stop asked for: every run ends after the step under way, with a commit")
        self._lanes.request_stop()

    def _give_out(self) -> bool:
        """Give every idle lane a cell, one that can have its engines where there is one; whether any was given."""
        given = False
        for lane in set(range(self._lanes.count)) - set(self._running):
            if not self._waiting or self._stopping.is_set():
                break
            fits = (cell for cell in self._waiting if engine_settings(cell.config) == self._settings.get(lane))
            cell = next(fits, self._waiting[0])
            self._waiting.remove(cell)
            self._settings[lane] = engine_settings(cell.config)
            self._running[lane] = (cell, time.monotonic())
            self._begun += 1
            self._say(f"[{self._begun}/{self._total}] {cell.arm}, seed {cell.seed}: begins")
            self._lanes.submit(lane, run_cell, cell)
            given = True
        return given

    def _take(self, ended: Ended) -> None:
        cell, begun = self._running.pop(ended.lane)
        seconds = time.monotonic() - begun
        who = f"{cell.arm}, seed {cell.seed}"
        if ended.error is not None:
            self._failed.append({"strategy": cell.arm, "seed": cell.seed, "error": ended.error})
            self._say(f"{who}: failed after {seconds:.0f} s: {ended.error}")
        elif ended.result.stopped:
            self._say(f"{who}: stopped after step {ended.result.records[-1]['step'] if ended.result.records else 0}")
            return
        else:
            self._seconds.append(seconds)
            self._say(f"{who}: {_figures(ended.result)} in {seconds:.0f} s")
        self._done += 1
        self._say(f"  {self._done} of {self._total} runs done{self._time_left()}")

    def _time_left(self) -> str:
        left = len(self._waiting) + len(self._running)
        if not left or not self._seconds or self._stopping.is_set():
            return ""
        each, now = sum(self._seconds) / len(self._seconds), time.monotonic()
        spent = sum(min(now - begun, each) for _, begun in self._running.values())
        return f", about {(left * each - spent) / min(self._lanes.count, left) / 60:.0f} min left"


def _figures(summary: RunSummary) -> str:
    first, last = summary.evaluations[0]["eval/accuracy"], summary.evaluations[-1]["eval/accuracy"]
    return f"held-out {first:.3f} -> {last:.3f}, {summary.records[-1]['step']} steps"


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


def _first_run(grid: Grid, arm: Arm) -> Any:
    return next(cell.config for cell in grid.cells if cell.arm == arm.name)


def _lanes(comparison: Comparison, pending: Sequence[Cell], say: Say) -> Lanes:
    """As many lanes as the cluster has room for, within what was asked for. Raises ResourceError when none fits."""
    budgets = list({budget(cell.config) for cell in pending})
    supply, autoscaling = cluster_supply(), comparison.base.ray.autoscaling
    for need in budgets:
        say(preflight(need, supply, autoscaling))
    most = min(len(pending), comparison.parallel or len(pending))
    count = max(1, side_by_side(budgets, supply, most))
    say(f"{count} at a time")
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
        gain_arms=[arm.name for arm in grid.arms if arm.config.curriculum.name == "gain"],
    )
    folder.write_table(CURVES_FILE, rows)
    folder.write_text(TABLE_FILE, json.dumps(table, indent=1, allow_nan=False))
    folder.write_text(MARKDOWN_FILE, to_markdown(table))
    return table
