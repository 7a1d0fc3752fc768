"""Time and memory of every curriculum's select and observe as the index grows, orders mapped from disk."""

import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from gainrl_ray.algo.permutation import Permutation
from gainrl_ray.benchmarks.timing import Spread, machine
from gainrl_ray.config_curricula import CurriculumConfig
from gainrl_ray.curricula.base import Order
from gainrl_ray.curricula.problem_state import Column, ProblemState
from gainrl_ray.curricula.registry import build_strategy, strategy_class
from gainrl_ray.types import SlotOutcome, StepOutcome

CASES: dict[str, dict[str, Any]] = {
    "gain, paper form, sigma 1000": {"name": "gain"},
    "gain, compat form, sigma 1000": {"name": "gain", "form": "compat"},
    "gain, sigma N/10": {"name": "gain", "sigma": 0.1, "mu_start": 0.5},
    "length, sigma 1000": {"name": "length"},
    "length, sigma N/10": {"name": "length", "sigma": 0.1, "mu_start": 0.5},
    "uniform": {"name": "uniform"},
    "sequential": {"name": "sequential"},
}
STATE = "state of each problem, top and write"
_CHUNK = 1 << 20  # ranks of an order made at a time


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
    rows: dict[str, dict[str, Cost]] = {name: {} for name in (*CASES, STATE)}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="gainrl-") as folder:
            path = Path(folder) / "order.npy"
            _write_order(path, size)
            for name, settings in CASES.items():
                config = TypeAdapter(CurriculumConfig).validate_python(settings)
                rows[name][f"{size:,}"] = _strategy_cost(config, path, size, min(count, size), rounds)
        rows[STATE][f"{size:,}"] = _state_cost(size, min(count, size), rounds)
    title = f"{count:,} problems a step: ms of select + observe, median (min-max), bytes of checkpoint, bytes held"
    return {title: Table(rows), "machine": machine("numpy")}


def _write_order(path: Path, size: int) -> None:
    """An .npy file of a shuffled order, made and written in parts."""
    order = np.lib.format.open_memmap(path, "w+", np.int32 if size < 2**31 else np.int64, (size,))
    shuffle = Permutation(size, 0, "benchmark order")
    for start in range(0, size, _CHUNK):
        order[start : start + _CHUNK] = shuffle(np.arange(start, min(start + _CHUNK, size)))
    order.flush()


def _strategy_cost(config: CurriculumConfig, path: Path, size: int, count: int, rounds: int) -> Cost:
    def steps() -> Generator[Any, None, None]:
        """The strategy, and then the seconds of each step."""
        mapped = strategy_class(config).signal != "none"
        order: Order = np.asarray(np.load(path, mmap_mode="r")) if mapped else range(size)
        strategy = build_strategy(config, order=order, seed=0)
        yield strategy
        for step in range(rounds + 1):
            started = time.perf_counter()
            rows = strategy.select(step, count)
            selected = time.perf_counter()
            slots = (
                SlotOutcome(slot=slot, row=int(row), completions=8, accuracy=0.6, angle=0.4)
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


def _state_cost(size: int, count: int, rounds: int) -> Cost:
    """Of a bandit's step: the problems with the largest of one number, three numbers of each written."""
    columns = {"value": Column(start=0.5, ranked=True), "wins": Column(start=1.0), "losses": Column(start=1.0)}
    state, seconds = ProblemState(size, columns, seed=0), []
    for step in range(rounds + 1):
        started = time.perf_counter()
        rows = state.top("value", count)
        wins = state.read("wins", rows) + np.arange(count) % 9
        state.write(rows, value=wins / (9.0 + step), wins=wins, losses=state.read("losses", rows) + 1)
        seconds.append(time.perf_counter() - started)
    checkpoint = len(json.dumps(state.state_dict()))
    return Cost(_milliseconds(seconds[1:]), 1e3 * seconds[0], checkpoint, state.nbytes)


def _milliseconds(seconds: list[float]) -> Spread:
    return Spread.of([1e3 * value for value in seconds])


def _bytes(number: float) -> str:
    """With three digits and a unit."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
