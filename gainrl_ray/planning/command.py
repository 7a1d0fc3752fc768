"""The options of jobs/plan.py, and the plan that they ask for."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gainrl_ray.cli import load_config
from gainrl_ray.config import Config
from gainrl_ray.errors import ConfigError
from gainrl_ray.planning.cluster import DEVICES, Cluster, Device, device_named
from gainrl_ray.planning.costs import assumptions
from gainrl_ray.planning.measured import UNBOUNDED, Fit, compare, fit, measured_costs, read_run
from gainrl_ray.planning.prediction import SIMULATED_STEPS, Simulator, devices_used
from gainrl_ray.planning.report import (
    assumptions_text,
    comparison_text,
    detail_text,
    fit_text,
    heading,
    splits_text,
)
from gainrl_ray.planning.search import best_splits, own_splits
from gainrl_ray.planning.shape import ModelShape, model_shape
from gainrl_ray.planning.workload import assumed_lengths

CHANGEABLE = ("memory_gib", "tflops", "memory_gbs", "peer_gbs", "host_gbs", "node_gbs", "per_node")


def parse(argv: Sequence[str], *, presets: Path, base: Path) -> tuple[argparse.Namespace, Config]:
    """Planning's options, and the settings that all other arguments give. Raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog="plan.py",
        description="Memory, sync and step time of a config on a cluster, and the best split of its GPUs. All other "
        "arguments are settings, as jobs/train.py takes them: --config NAME, --section.key=value.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--gpus", type=int, nargs="+", help="clusters of so many GPUs (cores for --gpu cpu)")
    parser.add_argument("--gpu", default="h100-80", help=f"{', '.join(DEVICES)}")
    parser.add_argument("--device", nargs="+", default=[], help=f"NAME=NUMBER over the preset: {', '.join(CHANGEABLE)}")
    parser.add_argument("--assume", nargs="+", default=[], help="NAME=NUMBER over what no datasheet tells")
    parser.add_argument("--completion-tokens", type=float, help="mean completion (a quarter of max_new_tokens)")
    parser.add_argument("--completion-spread", type=float, help="standard deviation over mean (0.8)")
    parser.add_argument("--prompt-tokens", type=float, help="mean prompt (a quarter of data.prompt.max_tokens)")
    parser.add_argument("--best", type=int, default=5, help="splits shown")
    parser.add_argument("--measured", nargs="+", help="folders of runs that give lengths and the seconds of parts")
    parser.add_argument("--against", nargs="+", default=[], help="folders of runs to predict from --measured's")
    try:
        options, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}; `python jobs/plan.py --help` lists what is accepted") from None
    return options, load_config(rest, presets=presets, base=base)


def plan(options: argparse.Namespace, config: Config) -> Iterator[str]:
    """The plan, text by text. Raises ConfigError, DataError or ModelError for input that cannot be used."""
    if options.against and not options.measured:
        raise ConfigError("--against needs --measured RUN, the run that predicts")
    _above_zero(options)
    if not config.trains_windows:
        yield "a step is planned as its window, generated and trained once: group_policy and replay are left out"
    shape = model_shape(config.model)
    if options.measured:
        yield from _from_measured(options, config, shape, fit([read_run(folder) for folder in options.measured]))
    else:
        yield from _from_hardware(options, config, shape)


def _from_hardware(options: argparse.Namespace, config: Config, shape: ModelShape) -> Iterator[str]:
    assumed = assumptions(options.assume)
    lengths = assumed_lengths(config, options.completion_tokens, options.completion_spread, options.prompt_tokens)
    device = _device(options)
    counts = options.gpus or [devices_used(config)]
    for number, count in enumerate(counts):
        cluster = Cluster(device=device, count=count)
        if number == 0:
            yield heading(shape, lengths, cluster)
            yield assumptions_text(assumed)
        named = own_splits(config, shape, cluster, lengths, assumed)
        if device.is_gpu:
            best = best_splits(config, shape, cluster, lengths, assumed, options.best)
            named += [
                (f"best {place}" if found.times else "nearest", found) for place, found in enumerate(best, start=1)
            ]
        yield splits_text(cluster, named)
        best_first = max(named, key=lambda item: item[1].steps_per_hour)
        yield f"{best_first[0]}, in detail\n" + detail_text(best_first[1])


def _from_measured(options: argparse.Namespace, config: Config, shape: ModelShape, fitted: Fit) -> Iterator[str]:
    """The config's step by the parts of measured runs, or the comparison with other runs."""
    cores = float((options.gpus or [2])[0])
    yield heading(shape, fitted.lengths, None)
    yield fit_text(fitted)
    for folder in options.against:
        yield comparison_text(folder, compare(fitted, read_run(folder), cores))
    if not options.against:
        yield _measured_step(fitted, config, cores)


def _measured_step(fitted: Fit, config: Config, cores: float) -> str:
    parts = measured_costs(fitted, config)
    times = Simulator(config, fitted.lengths, SIMULATED_STEPS).times(config, parts, UNBOUNDED, cores)[1:]
    total = sum(step.total for step in times) / len(times)
    names = ("generate", "train", "sync", "evaluate", "wait")
    each = ", ".join(f"{name} {sum(getattr(step, name) for step in times) / len(times):.2f}" for name in names)
    return f"a step on {cores:g} cores: {total:.2f} s ({each}), {3600 / total:.0f} steps/h"


def _device(options: argparse.Namespace) -> Device:
    device = device_named(options.gpu)
    for setting in options.device:
        name, _, text = setting.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if name not in CHANGEABLE or not 0 < value < float("inf"):
            raise ConfigError(
                f"--device {setting}: accepted are NAME=NUMBER above 0 with one of {', '.join(CHANGEABLE)}"
            )
        device = replace(device, **{name: int(value) if name == "per_node" else value})
    return device


def _above_zero(options: argparse.Namespace) -> None:
    """Raises ConfigError for a count or length that is none."""
    for name in ("completion_tokens", "prompt_tokens", "best"):
        value = getattr(options, name)
        if value is not None and not 1 <= value < float("inf"):
            raise ConfigError(f"--{name.replace('_', '-')} {value:g}: accepted is a number from 1 on")
    spread = options.completion_spread
    if spread is not None and not 0 <= spread < float("inf"):
        raise ConfigError(f"--completion-spread {spread:g}: accepted is 0 or more")
    if any(count < 1 for count in options.gpus or []):
        raise ConfigError(f"--gpus {' '.join(map(str, options.gpus))}: accepted are counts from 1 on")
