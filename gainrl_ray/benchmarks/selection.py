"""Time and memory of every curriculum's select and observe as the index grows, orders mapped from disk."""

import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from gainrl_ray.algo.permutation import Permutation
from gainrl_ray.benchmarks.timing import Spread, machine
from gainrl_ray.config_curricula import CurriculumConfig
from gainrl_ray.curricula.base import Columns, Order
from gainrl_ray.curricula.registry import build_strategy, strategy_class
from gainrl_ray.types import SlotOutcome, StepOutcome

CASES: dict[str, dict[str, Any]] = {
    "gain, paper form, sigma 1000": {"name": "gain"},
    "gain, compat form, sigma 1000": {"name": "gain", "form": "compat"},
    "gain, sigma N/10": {"name": "gain", "sigma": 0.1, "mu_start": 0.5},
    "length, sigma 1000": {"name": "length"},
    "length, sigma N/10": {"name": "length", "sigma": 0.1, "mu_start": 0.5},
    "pass_rate, sigma N/10": {"name": "pass_rate", "sigma": 0.1, "mu_start": 0.5},
    "external, sigma N/10": {"name": "external", "path": "order.parquet", "sigma": 0.1, "mu_start": 0.5},
    "uniform": {"name": "uniform"},
    "sequential": {"name": "sequential"},
    "adarft": {"name": "adarft", "start": 0.5},
    "bandit, MoPPS": {"name": "bandit"},
    "bandit, BOTS": {"name": "bandit", "rule": "bots"},
    "dps": {"name": "dps"},
    "dots, 64 numbers a problem": {"name": "dots"},
}
_CHUNK = 1 << 20  # rows of a file made at a time
_EMBEDDING = 64  # numbers of a problem


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one curriculum over one number of problems."""

    milliseconds: Spread  # of a step's select and observe
    first: float  # ms of the first step after the order was opened
    checkpoint_bytes: int  # of the state as JSON, after all steps
    resident_bytes: int  # that the strategy holds, a mapped file's pages left out

    def __str__(self) -> str:
        spread = self.milliseconds
        times = f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"
        return f"{times}, {_bytes(self.checkpoint_bytes)}, {_bytes(self.resident_bytes)}"


@dataclass(frozen=True, slots=True)
class Table:
    """Costs by curriculum and number of problems."""

    rows: dict[str, dict[str, Cost]]

    def __str__(self) -> str:
        sizes = list(next(iter(self.rows.values())))
        lines = [["", *(f"N = {size}" for size in sizes)]]
        lines += [[name, *(str(costs[size]) for size in sizes)] for name, costs in self.rows.items()]
        widths = [max(len(line[place]) for line in lines) for place in range(len(sizes) + 1)]
        return "\n" + "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )


def run(sizes: list[int], count: int, rounds: int) -> dict[str, Any]:
    """Costs of `rounds` steps of `count` problems of every curriculum, for each number of problems."""
    rows: dict[str, dict[str, Cost]] = {name: {} for name in CASES}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="gainrl-") as folder:
            files = _Files(Path(folder), size)
            files.write()
            for name, settings in CASES.items():
                config = TypeAdapter(CurriculumConfig).validate_python(settings)
                rows[name][f"{size:,}"] = _strategy_cost(config, files, min(count, size), rounds)
    title = f"{count:,} problems a step: ms of select + observe, median (min-max), bytes of checkpoint, bytes held"
    return {title: Table(rows), "machine": machine("numpy")}


@dataclass(frozen=True, slots=True)
class _Files:
    """What strategies are given, mapped from .npy files that are made and written in parts."""

    folder: Path
    size: int

    def write(self) -> None:
        """A shuffled order, difficulties that rise along it, and numbers of which embeddings are made."""
        shuffle = Permutation(self.size, 0, "benchmark order")
        self._write("order", np.int32 if self.size < 2**31 else np.int64, self.size, shuffle)
        self._write("difficulty", np.float32, self.size, lambda rows: shuffle.inverse(rows) / self.size)
        noise = Permutation(self.size + _EMBEDDING, 0, "benchmark embeddings")
        self._write("noise", np.int32, self.size + _EMBEDDING - 1, noise)

    def order(self) -> np.ndarray:
        """[N] rows."""
        return self._map("order")

    def columns(self) -> Columns:
        """The embedding of row r is the numbers r, r + 1, .. of the noise: all differ, in few bytes."""
        embedding = np.lib.stride_tricks.sliding_window_view(self._map("noise"), _EMBEDDING)
        return {"difficulty": self._map("difficulty"), "embedding": embedding}

    def _map(self, name: str) -> np.ndarray:
        return np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r"))

    def _write(self, name: str, dtype: Any, size: int, values: Callable[[np.ndarray], np.ndarray]) -> None:
        file = np.lib.format.open_memmap(self.folder / f"{name}.npy", "w+", dtype, (size,))
        for start in range(0, size, _CHUNK):
            stop = min(start + _CHUNK, size)
            file[start:stop] = values(np.arange(start, stop))
        file.flush()


def _strategy_cost(config: CurriculumConfig, files: _Files, count: int, rounds: int) -> Cost:
    def steps() -> Generator[Any, None, None]:
        """The strategy, and then the seconds of each step."""
        mapped = strategy_class(config).signal != "none"
        order: Order = files.order() if mapped else range(files.size)
        strategy = build_strategy(config, order=order, seed=0, columns=files.columns())
        yield strategy
        for step in range(rounds + 1):
            started = time.perf_counter()
            rows = strategy.select(step, count)
            selected = time.perf_counter()
            slots = (
                SlotOutcome(slot=slot, row=int(row), completions=8, accuracy=int(row) % 9 / 8, angle=0.4)
                for slot, row in enumerate(rows)
            )
            outcome = StepOutcome(step=step, slots=tuple(slots))
            made = time.perf_counter()
            strategy.observe(outcome)
            yield time.perf_counter() - made + selected - started

    timed = steps()
    strategy = next(timed)
    first, *seconds = timed
    checkpoint = len(json.dumps(strategy.state_dict()))
    tracemalloc.start()
    held = steps()
    kept = next(held)
    next(held)
    held.close()  # with the step's own window and outcome
    resident = tracemalloc.get_traced_memory()[0] + sys.getsizeof(kept)
    tracemalloc.stop()
    return Cost(_milliseconds(seconds), 1e3 * first, checkpoint, resident)


def _milliseconds(seconds: list[float]) -> Spread:
    return Spread.of([1e3 * value for value in seconds])


def _bytes(number: float) -> str:
    """With three digits and a unit."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
