"""Time of a curriculum's select and observe as the index grows."""

import time
from typing import Any

import numpy as np

from gainrl_ray.benchmarks.timing import Spread, machine
from gainrl_ray.config import Config
from gainrl_ray.curricula.registry import build_strategy
from gainrl_ray.types import SlotOutcome, StepOutcome


def run(config: Config, sizes: list[int], rounds: int) -> dict[str, Any]:
    """Milliseconds of one select and of one observe of `config.curriculum`, by number of problems."""
    count = config.rollout.problems_per_step
    figures: dict[str, dict[str, Spread]] = {}
    for size in sizes:
        strategy = build_strategy(config.curriculum, order=np.arange(size), seed=config.run.seed)
        select, observe = [], []
        for step in range(rounds):
            started = time.perf_counter()
            rows = strategy.select(step, min(count, size))
            selected = time.perf_counter()
            slots = (SlotOutcome(slot=slot, row=int(row), accuracy=0.6, angle=0.4) for slot, row in enumerate(rows))
            outcome = StepOutcome(step=step, slots=tuple(slots))
            made = time.perf_counter()
            strategy.observe(outcome)
            observe.append(1e3 * (time.perf_counter() - made))
            select.append(1e3 * (selected - started))
        figures[f"{size:,}"] = {"select, ms": Spread.of(select), "observe, ms": Spread.of(observe)}
    return {"problems": figures, "machine": machine("numpy")}
