"""Reports as files, written again and again as what they show goes on."""

from gainrl_ray.metrics import METRICS_FILE
from gainrl_ray.report.comparison_data import TABLE_FILE, read_comparison
from gainrl_ray.report.comparison_page import comparison_page
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


class ComparisonReport:
    """A comparison's report.html."""

    def __init__(self, folder: Storage) -> None:
        self._folder = folder

    def page(self, version: str) -> str:
        """The page of the comparison as it is now. Raises DataError as read_comparison."""
        return comparison_page(read_comparison(self._folder), version)

    def stamp(self) -> str:
        """A text that changes when the comparison goes on."""
        return self._folder.stamp(TABLE_FILE)

    def write(self) -> str:
        """Write the report of the comparison as it is now; where it is. Raises DataError as read_comparison."""
        self._folder.write_text(REPORT_FILE, self.page(""))
        return self._folder.child(REPORT_FILE).uri


def open_report(folder: Storage) -> RunReport | ComparisonReport:
    """The report of whatever the folder holds."""
    return ComparisonReport(folder) if folder.exists(TABLE_FILE) else RunReport(folder)


def write_comparison_report(folder: Storage) -> str:
    """Write the report of a comparison into its folder; where it is. Raises DataError as read_comparison."""
    return ComparisonReport(folder).write()
