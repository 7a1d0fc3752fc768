"""The options of jobs/score.py: which signals, and whether they are to be diagnosed."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gainrl_ray.cli import load_config
from gainrl_ray.config import Config
from gainrl_ray.config_layers import did_you_mean
from gainrl_ray.config_signals import SIGNAL_NAMES, SignalName
from gainrl_ray.errors import ConfigError

ANGLE = "angle"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringOptions:
    """What is asked of a dataset."""

    angle: bool  # the scored index
    signals: tuple[SignalName, ...]
    diagnose: bool


def parse(argv: Sequence[str], *, presets: Path, base: Path) -> tuple[ScoringOptions, Config]:
    """The options, and the settings that all other arguments give; the scored index alone where nothing is asked.

    Raises ConfigError.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--signal", default="")
    parser.add_argument("--diagnose", action="store_true")
    try:
        options, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; accepted: --signal=NAME[,NAME] and --diagnose") from None
    asked = [name.strip() for name in options.signal.split(",") if name.strip()]
    accepted = (ANGLE, *SIGNAL_NAMES)
    for name in asked:
        if name not in accepted:
            raise ConfigError(
                f"--signal: received {name!r}{did_you_mean(name, accepted)}; accepted: {', '.join(accepted)}"
            )
    parsed = ScoringOptions(
        angle=ANGLE in asked or not (asked or options.diagnose),
        signals=tuple(name for name in SIGNAL_NAMES if name in asked),
        diagnose=options.diagnose,
    )
    return parsed, load_config(rest, presets=presets, base=base)
