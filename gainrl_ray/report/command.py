"""The options of jobs/report.py, and what they ask for."""

import argparse
import contextlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from gainrl_ray.errors import ConfigError, DataError
from gainrl_ray.report.comparison_data import COMPARISONS
from gainrl_ray.report.serving import ReportServer
from gainrl_ray.report.writing import open_report
from gainrl_ray.storage import Storage

PORT = 8050
ACCEPTED = "RUN [--run.storage=FOLDER] [--serve [PORT]]"
SHOWN_NAMES = 10
SERVING_PRIORITY = 10


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options. Raises ConfigError for what is none."""
    parser = argparse.ArgumentParser(
        prog="report.py",
        description="The report of a run or of a comparison as one HTML page.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("run", nargs="?", help="a run's or a comparison's folder or URI, or its name in --run.storage")
    parser.add_argument("--run.storage", dest="storage", default="runs", help="folder or URI that holds runs (runs)")
    parser.add_argument(
        "--serve", type=int, nargs="?", const=PORT, metavar="PORT", help=f"serve a live page on loopback ({PORT})"
    )
    try:
        options, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; accepted is {ACCEPTED}") from None
    if unknown or options.run is None:
        raise ConfigError(f"received {' '.join(argv) or 'nothing'}; accepted is {ACCEPTED}")
    return options


def report(options: argparse.Namespace, base: Path, say: Callable[[str], None]) -> None:
    """Write the page, or serve it until Ctrl-C. Raises ConfigError or DataError for input that cannot be used."""
    made = open_report(find(options.run, _folder(options.storage, base), base))
    if options.serve is None:
        say(made.write())
        return
    os.nice(SERVING_PRIORITY)  # the run that is watched needs the cores
    server = ReportServer(made, options.serve)
    say(f"serving {server.url} on this machine only, until Ctrl-C")
    with contextlib.suppress(KeyboardInterrupt):
        server.run(say)


def find(run: str, storage: Storage, base: Path) -> Storage:
    """The folder that `run` means: a path, a URI, or a name in `storage`. Raises DataError when there is none."""
    candidates = [_folder(run, base)]
    if re.fullmatch(r"[\w.-]+", run):
        candidates += [storage.child(run), storage.child(COMPARISONS, run)]
    for folder in candidates:
        if folder.exists():
            return folder
    names = [name for name in storage.list() if storage.exists(f"{name}/metrics.jsonl")]
    known = f"its runs: {', '.join(names[-SHOWN_NAMES:])}" if names else "it holds no runs"
    if compared := storage.list(COMPARISONS):
        known += f"; its comparisons: {', '.join(compared[-SHOWN_NAMES:])}"
    raise DataError(f"no run {run!r}: neither a folder nor a name in {storage.uri} ({known})")


def _folder(path: str, base: Path) -> Storage:
    return Storage(path if "://" in path else str(base / Path(path).expanduser()))
