"""The report of a run, written again and again as the run goes on."""

from gainrl_ray.metrics import METRICS_FILE
from gainrl_ray.report.run_data import RunReader
from gainrl_ray.report.run_page import REPORT_FILE, run_page
from gainrl_ray.storage import Storage


class RunReport:
    """A run's report.html."""

    def __init__(self, run: Storage) -> None:
        self._run, self._reader = run, RunReader(run)

    def page(self, version: str) -> str:
        """The page of the run as it is now, for `version` see `page.page`. Raises DataError as RunReader.read."""
        return run_page(self._reader.read(), version)

    def stamp(self) -> str:
        """A text that changes when the run goes on."""
        return self._run.stamp(METRICS_FILE)

    def write(self) -> str:
        """Write the report of the run as it is now; where it is. Raises DataError as RunReader.read."""
        self._run.write_text(REPORT_FILE, self.page(""))
        return self._run.child(REPORT_FILE).uri
