"""Every curriculum of the config, with settings and columns that it can be built by."""

from typing import Any

import numpy as np
from pydantic import TypeAdapter

from gainrl_ray.config_curricula import CurriculumConfig
from gainrl_ray.curricula.base import Columns, Order, Strategy
from gainrl_ray.curricula.registry import build_strategy
from gainrl_ray.types import SlotOutcome, StepOutcome

EXAMPLES: dict[str, dict[str, Any]] = {
    "gain": {},
    "length": {},
    "pass_rate": {},
    "external": {"path": "order.json"},
    "uniform": {},
    "sequential": {},
    "adarft": {},
    "bandit": {},
    "bandit, bots": {"rule": "bots"},
    "dps": {},
    "dots": {"reference_size": 32},
    "custom": {"strategy": "strategy_example:RetryStrategy", "options": {"retried": 0.25}},
}


def config(example: str, **settings: Any) -> CurriculumConfig:
    """Its settings, with these over them."""
    name = example.partition(",")[0]
    return TypeAdapter(CurriculumConfig).validate_python({"name": name, **EXAMPLES[example], **settings})


def columns(size: int) -> Columns:
    """Difficulties that rise with the row, and embeddings in which likeness of rows is likeness of vectors."""
    difficulty = np.linspace(0.0, 1.0, size)
    angles = np.outer(difficulty, [0.5, 1.0, 2.0])
    return {"difficulty": difficulty, "embedding": np.concatenate([np.cos(angles), np.sin(angles)], axis=1)}


def build(example: str, size: int = 40, seed: int = 0, order: Order | None = None, **settings: Any) -> Strategy:
    """The strategy over `size` rows in their own order."""
    order = np.arange(size) if order is None else order
    return build_strategy(config(example, **settings), order=order, seed=seed, columns=columns(size))


def outcome(step: int, rows: Any, accuracy: Any, completions: int = 8, angle: float = 0.4) -> StepOutcome:
    """Of a step that showed `rows`, with one accuracy each, or one for all."""
    pairs = zip(np.asarray(rows).tolist(), np.broadcast_to(accuracy, np.shape(rows)).tolist(), strict=True)
    return StepOutcome(
        step=step,
        slots=tuple(
            SlotOutcome(slot=slot, row=row, completions=completions, accuracy=share, angle=angle)
            for slot, (row, share) in enumerate(pairs)
        ),
    )


def rates(step: int, rows: np.ndarray) -> np.ndarray:
    """Accuracies of 0, 1/8 .. 1 as a policy might have them: a function of step and row."""
    return ((np.asarray(rows) * 7 + step * 3) % 9) / 8
