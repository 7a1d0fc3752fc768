"""Which cell runs in which lane, and what is said of it."""

import threading
import time
from collections.abc import Sequence
from typing import Any

from gainrl_ray.actors.lanes import Ended, Lanes
from gainrl_ray.actors.pipeline_actor import engine_settings
from gainrl_ray.actors.run import Pipelines, stop_signals
from gainrl_ray.comparing.grid import Cell
from gainrl_ray.training import RunSummary, Say, train

POLL_S = 0.5


def run_cell(cell: Cell, pipelines: Pipelines) -> RunSummary:
    """The summary of a cell's run, in a lane's process."""
    return train(cell.config, cell.run_name, lambda _line: None, pipelines)


class Schedule:
    """Hands cells to lanes until all have ended or a stop was asked for."""

    def __init__(self, cells: Sequence[Cell], total: int, lanes: Lanes, say: Say) -> None:
        """`cells` are those that have not finished, of `total`; the lanes are closed at the end."""
        self._waiting, self._lanes, self._say = list(cells), lanes, say
        self._total, self._done, self._begun = total, total - len(cells), total - len(cells)
        self._running: dict[int, tuple[Cell, float]] = {}
        self._settings: dict[int, tuple[Any, ...]] = {}
        self._failed: list[dict[str, Any]] = []
        self._seconds: list[float] = []
        self._stopping, self._stopped = threading.Event(), False

    def run(self) -> list[dict[str, Any]]:
        """Strategy, seed and error of each cell that failed."""
        try:
            with stop_signals(self.request_stop):
                while self._give_out() or self._running:
                    self._pass_stop_on()
                    for ended in self._lanes.ended(POLL_S):
                        self._take(ended)
        finally:
            self._lanes.close()
        return self._failed

    def request_stop(self) -> None:
        """Begin no more cells, and end those under way with a commit; may come from a signal."""
        self._stopping.set()

    def _pass_stop_on(self) -> None:
        if self._stopping.is_set() and not self._stopped:
            self._stopped = True
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
