"""The report of a run while it trains: written in a thread of low priority beside it, whose errors are only told."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gainrl_ray.errors import GainrlError
from gainrl_ray.metrics import read_metrics
from gainrl_ray.storage import Storage

if TYPE_CHECKING:
    from gainrl_ray.report.writing import RunReport

LOW_PRIORITY = 15
POLL_S = 2.0
FINAL_S = 120.0
"""Longest that the end of a run waits for its last report."""


@contextmanager
def reporting(run: Storage, every: int | None, say: Callable[[str], None]) -> Iterator[None]:
    """Keep a run's report.html up to date for the length of the block, and write it at its end, however it ends.

    every: steps between two reports; 0 = only at the end, None = never.
    """
    if every is None:
        yield
        return
    writer = _Writer(run, every, say)
    writer.start()
    try:
        yield
    finally:
        writer.finish()


class _Writer(threading.Thread):
    def __init__(self, run: Storage, every: int, say: Callable[[str], None]) -> None:
        super().__init__(name="report", daemon=True)
        self._run, self._every, self._say = run, every, say
        self._done = threading.Event()
        self._report: RunReport | None = None

    def finish(self) -> None:
        """Write the last report."""
        self._done.set()
        self.join(FINAL_S)
        if self.is_alive():
            self._say(f"warning: the report is not written after {FINAL_S:.0f} s; jobs/report.py makes it later")

    def run(self) -> None:
        """Write whenever enough steps are done, and at the end."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)
        written = 0
        while not self._done.wait(POLL_S):
            if self._every and (steps := self._steps()) >= written + self._every:
                self._write()
                written = steps
        if self._steps() > 0 and (where := self._write()):
            self._say(f"report: {where}")

    def _write(self) -> str | None:
        """Where the report was written; None after an error, which must never end a run."""
        try:
            if self._report is None:
                from gainrl_ray.report.writing import RunReport  # plotly is not imported while a run starts

                self._report = RunReport(self._run)
            return self._report.write()
        except Exception as error:
            reason = error if isinstance(error, GainrlError) else f"{type(error).__name__}: {error}"
            self._say(f"warning: the report was not written ({reason}); jobs/report.py makes it later")
            return None

    def _steps(self) -> int:
        """Steps trained so far; 0 when that cannot be read."""
        try:
            return max((record["step"] for record in read_metrics(self._run)), default=0)
        except (GainrlError, ValueError):
            return 0
