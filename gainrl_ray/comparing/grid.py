"""The grid of a comparison: arms, each a name with settings over a common base, times seeds."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from gainrl_ray.cli import changed_settings, with_absolute_paths
from gainrl_ray.config import Config
from gainrl_ray.config_fields import render
from gainrl_ray.config_layers import Layer, flatten, merge, resolve, yaml_layer, yaml_text
from gainrl_ray.config_node import Node
from gainrl_ray.errors import ConfigError

Seeds = int | tuple[int, ...]
"""So many seeds from 0 on, or these."""

FIXED = (
    *("run.", "ray.", "model.", "evaluation.", "data.heldout.", "data.prompt.", "reward.function"),
    *("rollout.problems_per_step", "rollout.max_new_tokens", "rollout.stop", "rollout.top_p"),
)
"""Settings that all arms have in common: start weights, problem budget, what is evaluated, when and how."""
HALF = "half"
ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")


def _checked(seeds: Seeds | None) -> Seeds | None:
    """The same seeds; raises ValueError where `seed_numbers` does."""
    if seeds is not None:
        seed_numbers(seeds)
    return seeds


class ArmEntry(Node):
    """An arm as a grid file has it."""

    name: str
    """Name in the table and in the names of its runs."""
    overrides: dict[str, Any] = Field(default={})
    """Settings over those of the base, in sections as a config file has them, or by dotted keys."""
    seeds: Annotated[Seeds | None, AfterValidator(_checked)] = None
    """Seeds of this arm; none = those of the grid."""


class GridFile(Node):
    """A grid as YAML."""

    arms: tuple[ArmEntry, ...] = ()
    """What is compared."""
    seeds: Annotated[Seeds, AfterValidator(_checked)] = 5
    """Seeds of every arm: so many from 0 on, or a list."""
    target_accuracy: float | None = None
    """Held-out accuracy that steps, problems, tokens and seconds are counted to; none = uniform's mean at the end."""
    half_data: bool = False
    """Give every arm a twin that trains on half of the data."""

    @field_validator("target_accuracy")
    @classmethod
    def _is_an_accuracy(cls, target: float | None) -> float | None:
        if target is not None and not 0 < target <= 1:
            raise ValueError(f"received {target:g}; accepted: an accuracy above 0 and at most 1")
        return target


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Runs that differ in their seed only."""

    name: str
    seeds: tuple[int, ...]
    config: Config  # of its runs, but for name and seed

    @property
    def is_half(self) -> bool:
        """Whether this is the twin of another arm, on half of its data."""
        return self.name.endswith(f"-{HALF}")

    @property
    def is_gain_rl(self) -> bool:
        """Whether GAIN-RL's published claims speak of it: its curriculum, the largest signal first, on all data."""
        return self.config.curriculum.name == "gain" and self.config.scoring.descending and not self.is_half


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of the grid."""

    arm: str
    seed: int
    config: Config

    @property
    def run_name(self) -> str:
        """The name of the run's folder."""
        assert self.config.run.name is not None
        return self.config.run.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A named comparison."""

    name: str
    arms: tuple[Arm, ...]
    target_accuracy: float | None

    @property
    def cells(self) -> list[Cell]:
        """Every run, seed by seed, so that an unfinished comparison holds pairs."""
        seeds = sorted({seed for arm in self.arms for seed in arm.seeds})
        return [self._cell(arm, seed) for seed in seeds for arm in self.arms if seed in arm.seeds]

    def _cell(self, arm: Arm, seed: int) -> Cell:
        run = arm.config.run.model_copy(update={"name": f"{self.name}.{arm.name}.{seed}", "seed": seed})
        return Cell(arm=arm.name, seed=seed, config=arm.config.model_copy(update={"run": run}))


def read_grid(tree: dict[str, Any], origin: str) -> GridFile:
    """The grid that a YAML file or options give. Raises ConfigError naming `origin` and what cannot be used."""
    try:
        return GridFile.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {_message(e)}" for e in error.errors(include_url=False)]
    except TypeError as error:
        lines = [str(error)]
    accepted = f"accepted keys: {', '.join(GridFile.model_fields)}; of an arm: {', '.join(ArmEntry.model_fields)}"
    raise ConfigError(f"{origin}: " + "\n  ".join([*lines, accepted]))


def make_grid(name: str, base: Config, file: GridFile, folder: Path) -> Grid:
    """The grid of `file` over `base`, each arm's settings resolved, relative paths in them from `folder`.

    Raises:
        ConfigError: no arm, equal or unusable names, settings that cannot be used or that all arms have in common.
    """
    if not file.arms:
        raise ConfigError("a comparison needs an arm: give --strategies gain,uniform or a --grid file with `arms`")
    arms = []
    for entry in file.arms:
        if not ARM_NAME.fullmatch(entry.name):
            raise ConfigError(
                f"arm {entry.name!r}: accepted is a name of up to 48 letters, digits, '-' and '_'; a strategy of "
                "another name gets one in a --grid file"
            )
        seeds = tuple(seed_numbers(file.seeds if entry.seeds is None else entry.seeds))
        arms.append(Arm(name=entry.name, seeds=seeds, config=arm_config(base, entry, folder)))
        if file.half_data:
            half = ArmEntry(name=f"{entry.name}-{HALF}", overrides={"data": {"fraction": 0.5}})
            arms.append(Arm(name=half.name, seeds=seeds, config=arm_config(arms[-1].config, half, folder)))
    names = [arm.name for arm in arms]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two arms are named {', '.join(double)}: give each its own name")
    return Grid(name=name, arms=tuple(arms), target_accuracy=file.target_accuracy)


def seed_numbers(seeds: Seeds) -> Sequence[int]:
    """The seeds themselves. Raises ValueError for none, equal or negative ones."""
    numbers = seeds if isinstance(seeds, tuple) else range(seeds)
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise ValueError(f"received {seeds!r}; accepted: a number of seeds from 1 on, or a list of different ones")
    return numbers


def arm_config(base: Config, entry: ArmEntry, folder: Path) -> Config:
    """The settings of an arm. Raises ConfigError for unusable ones, and for those that all arms have in common."""
    origin = f"in arm {entry.name}"
    config = resolve([Layer("", base.model_dump(mode="json")), Layer(origin, _sections(entry.overrides))])
    config = with_absolute_paths(config, folder)
    before = dict(flatten(base.model_dump(mode="json")))
    changed = [(key, value) for key, value in flatten(config.model_dump(mode="json")) if value != before.get(key)]
    if fixed := [f"{key}: {render(before[key])} -> {render(value)}" for key, value in changed if key.startswith(FIXED)]:
        raise ConfigError(
            f"arm {entry.name} changes what all arms of a comparison have in common:\n  "
            + "\n  ".join(fixed)
            + "\nset it for the whole comparison (--section.key=value), or make two comparisons"
        )
    return config


def _sections(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides with their dotted keys taken apart."""
    tree: dict[str, Any] = {}
    for key, value in overrides.items():
        for name in reversed(key.split(".")):
            value = {name: value}
        tree = merge(tree, value, None)
    return tree


def _message(detail: ErrorDetails) -> str:
    return detail["msg"].removeprefix("Value error, ")


def arms_text(grid: Grid) -> str:
    """The arms with all their settings as YAML, for `read_arms`."""
    arms = {arm.name: {"seeds": [*arm.seeds], "config": arm.config.model_dump(mode="json")} for arm in grid.arms}
    return yaml_text(arms)


def read_arms(text: str, origin: str) -> dict[str, Arm]:
    """What `arms_text` wrote, by name."""
    return {
        name: Arm(name=name, seeds=tuple(arm["seeds"]), config=resolve([Layer(f"in {origin}", arm["config"])]))
        for name, arm in yaml_layer(text.encode(), origin=origin).tree.items()
    }


def changes(stored: Mapping[str, Arm], grid: Grid) -> list[str]:
    """One line for each setting, seed or arm of `stored` that the grid has otherwise; what it adds is no change."""
    present, lines = {arm.name: arm for arm in grid.arms}, []
    for name, before in stored.items():
        if (arm := present.get(name)) is None:
            lines.append(f"arm {name}: was there, is missing")
            continue
        if gone := sorted({*before.seeds} - {*arm.seeds}):
            lines.append(f"arm {name}: seeds {', '.join(map(str, gone))} were there, are missing")
        lines += [f"arm {name}: {change}" for change in changed_settings(before.config, arm.config)]
    return lines
