"""Timing by turns: every case runs once a round, so that a machine's moods fall on all of them alike."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated figures of one case: their middle and ends."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.low:.4g} to {self.high:.4g})"


def by_turns(cases: Mapping[str, Callable[[], Any]], *, rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each case in each of `rounds` rounds, after `warmup` rounds that are not counted.

    Every second round runs in reverse, so that no case always follows the same other.
    """
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warmup + rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            started = time.perf_counter()
            cases[name]()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(slower: list[float], faster: list[float]) -> Spread:
    """How many times as long the first took as the second, round by round."""
    return Spread.of([a / b for a, b in zip(slower, faster, strict=True)])


def machine(*packages: str) -> dict[str, str]:
    """Where figures come from: processor, accelerator, threads, and versions of Python, torch and `packages`."""
    import torch

    found = {
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
    }
    for package in ("torch", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    """The processor's name as the kernel tells it, with its number of logical cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} logical cores"
