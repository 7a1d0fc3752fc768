"""The options of jobs/compare.py: which arms, over which settings."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gainrl_ray.cli import load_config, preset_name
from gainrl_ray.comparing.grid import Grid, make_grid, read_grid
from gainrl_ray.config import Config, RunConfig
from gainrl_ray.config_layers import yaml_layer
from gainrl_ray.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a command line asks for."""

    grid: Grid
    base: Config
    parallel: int | None  # most runs at a time; None = as many as the cluster has room for
    diagnose: bool  # whether the report holds the diagnosis of the base settings' signals


def parse(argv: Sequence[str], *, presets: Path, folder: Path) -> Comparison:
    """The comparison of a command line; relative paths start from `folder`. Raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog="compare.py",
        description="Curricula, or any settings, compared over seeds: every run with the same start weights, problem "
        "budget and evaluations, one table with intervals. All other arguments are settings of all runs, as "
        "jobs/train.py takes them: --config NAME, --section.key=value.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--strategies", help="arms that differ in curriculum.name: gain,uniform,length")
    parser.add_argument("--grid", help="YAML file with `arms`: each a name, overrides and, if its own, seeds")
    parser.add_argument("--seeds", help="so many from 0 on (5), or a list: 3,7,11")
    parser.add_argument("--target-accuracy", type=float, help="held-out; none = uniform's mean at the end")
    parser.add_argument("--half-data", action="store_true", help="for every arm a twin on half of the data")
    parser.add_argument("--diagnose", action="store_true", help="put the diagnosis of the signals into the report")
    parser.add_argument("--name", help="of the comparison; that of an earlier one continues it")
    parser.add_argument("--parallel", type=int, help="most runs at a time (as many as the cluster has room for)")
    try:
        options, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; `python jobs/compare.py --help` lists what is accepted") from None
    base = load_config(rest, presets=presets, base=folder)
    if options.parallel is not None and options.parallel < 1:
        raise ConfigError(f"--parallel {options.parallel}: accepted is a number from 1 on")
    name = options.name or base.run.name or f"{preset_name(rest)}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        RunConfig(name=name)
    except ValidationError as error:
        raise ConfigError(f"--name: {error.errors()[0]['msg']}") from None
    report = base.report.model_copy(update={"every": None})  # 5 MB a run; jobs/report.py makes one when asked
    base = base.model_copy(update={"run": base.run.model_copy(update={"name": None}), "report": report})
    tree, origin = _tree(options, folder)
    grid = make_grid(name, base, read_grid(tree, origin), folder)
    return Comparison(grid=grid, base=base, parallel=options.parallel, diagnose=options.diagnose)


def _tree(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], str]:
    """The grid file's tree with the options over it, and what to call it."""
    tree: dict[str, Any] = {}
    if options.grid:
        file = folder / Path(options.grid).expanduser()
        if not file.is_file():
            raise ConfigError(f"--grid {options.grid}: there is no such file")
        tree = dict(yaml_layer(file.read_bytes(), origin=file.name).tree)
    if options.strategies:
        if options.grid:
            raise ConfigError("--strategies and --grid both name the arms: give one of them")
        names = options.strategies.split(",")
        tree["arms"] = [{"name": name, "overrides": {"curriculum": {"name": name}}} for name in names]
    if options.seeds is not None:
        try:
            numbers = [int(seed) for seed in options.seeds.split(",")]
        except ValueError:
            raise ConfigError(f"--seeds {options.seeds}: accepted is a number, or several with commas") from None
        tree["seeds"] = numbers if len(numbers) > 1 else numbers[0]
    if options.target_accuracy is not None:
        tree["target_accuracy"] = options.target_accuracy
    if options.half_data:
        tree["half_data"] = True
    return tree, options.grid or "the command line"
