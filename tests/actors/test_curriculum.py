"""The curriculum actor holds nothing of the dataset's size."""

import tracemalloc
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import ray

from gainrl_ray.actors.curriculum import Curriculum, CurriculumActor, _CurriculumProcess
from gainrl_ray.config_curricula import CustomConfig, GainConfig, UniformConfig
from gainrl_ray.curricula.base import FixedStrategy
from gainrl_ray.data.orders import keep_order
from gainrl_ray.data.problem_columns import ProblemIds, write_columns
from gainrl_ray.data.stored_array import StoredArray
from gainrl_ray.errors import ConfigError, StaleAttemptError
from gainrl_ray.storage import Storage
from gainrl_ray.types import SlotOutcome, StepOutcome, Window


def _stored(folder: Path, size: int) -> tuple[StoredArray, ProblemIds]:
    """Rows in falling order, whose ids are their numbers."""
    storage = Storage(str(folder))
    with write_columns(storage) as add:
        rows = pa.array(np.arange(size))
        add(
            pa.table(
                {"problem_id": rows.cast(pa.string()), "prompt_tokens": rows, "difficulty": rows.cast(pa.float64())}
            )
        )
    return keep_order(storage, "order.npy", size, lambda: np.arange(size)[::-1]), ProblemIds(storage)


def _peak(order: StoredArray, ids: ProblemIds) -> tuple[int, int]:
    """Bytes that Python and Arrow take at most for starting, two resets and six steps."""
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    config = GainConfig(sigma=0.1, mu_start=0.5)
    curriculum = _CurriculumProcess(config, order, ids, 0, Storage("unused"), {})
    kept = None
    for attempt, start in ((1, 0), (2, 3)):
        curriculum.reset(start, kept, [], [], attempt)
        for step in range(start, start + 3):
            window = curriculum.select(step, 64, attempt)
            assert window.problem_ids == tuple(str(row) for row in window.rows)
            slots = (SlotOutcome(slot=0, row=0, completions=8, accuracy=0.6, angle=0.4),)
            curriculum.observe(StepOutcome(step=step, slots=slots), [0], step, attempt)
        kept = curriculum.commit(start + 3, attempt)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, pa.total_allocated_bytes() - arrow


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    _peak(*_stored(tmp_path / "first", 1000))  # what modules keep once
    small, large = (_peak(*_stored(tmp_path / str(size), size)) for size in (10**5, 10**6))
    assert large[0] - small[0] < 100_000
    assert large[1] - small[1] < 100_000


@pytest.mark.parametrize("config", [GainConfig(sigma=0.2, mu_start=0.0), UniformConfig()])
def test_the_actor_maps_the_order_where_it_runs(
    ray_session: None, tmp_path: Path, config: GainConfig | UniformConfig
) -> None:
    order, ids = _stored(tmp_path, 1000)
    actor = CurriculumActor.remote(
        config, order if config.name == "gain" else range(1000), ids, 3, Storage(str(tmp_path)), {}
    )
    ray.get(actor.reset.remote(0, None, [], [], 1), timeout=120)
    window = ray.get(actor.select.remote(0, 50, 1), timeout=120)
    ray.kill(actor)
    assert window.problem_ids == tuple(str(row) for row in window.rows) and len(set(window.rows)) == 50
    if config.name == "gain":  # rank 0 is the last row, and ranks rise
        assert list(window.rows) == sorted(window.rows, reverse=True) and max(window.rows) > 950


class _Counting(FixedStrategy):
    """Refills with the rows from the number of observed steps on."""

    name: ClassVar[str] = "uniform"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._seen = 0

    def _ranks(self, step: int, count: int) -> np.ndarray:
        return np.arange(count)

    def refill(self, step: int, count: int, drawn: np.ndarray, planned: np.ndarray) -> np.ndarray:
        return drawn.max() + 1 + self._seen + np.arange(count)

    def observe(self, outcome: StepOutcome) -> None:
        self._seen += 1

    def _state(self) -> dict[str, Any]:
        return {"seen": self._seen}

    def _restore(self, state: dict[str, Any]) -> None:
        self._seen = state["seen"]


def test_a_refill_is_drawn_from_the_state_that_its_window_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far the learners, and with them the observed steps, have come meanwhile."""
    monkeypatch.setattr(
        "gainrl_ray.actors.curriculum.build_strategy",
        lambda config, order, seed, columns: _Counting(config, order, seed),
    )
    ids = [f"p{row}" for row in range(100)]
    curriculum = Curriculum(UniformConfig(), range(100), ids, 0, Storage(str(tmp_path)))
    curriculum.reset(0, None, [], [], 1)
    slots = (SlotOutcome(slot=0, row=0, completions=2, accuracy=0.5, angle=0.0),)
    first, second = (curriculum.select(step, 4, 1) for step in (0, 1))
    curriculum.observe(StepOutcome(step=0, slots=slots), [0], 0, 1)
    curriculum.select(2, 4, 1)
    before = curriculum.ledger()
    for _ in range(2):
        assert curriculum.refill(1, 2, second.rows, 1) == Window(step=1, rows=(4, 5), problem_ids=("p4", "p5"))
        assert curriculum.refill(2, 2, first.rows, 1).rows == (5, 6)
    assert curriculum.refill(1, 1, (*second.rows, 4, 5), 1).rows == (6,)
    assert curriculum.ledger() == before
    curriculum.observe(StepOutcome(step=1, slots=slots), [0], 0, 1)
    curriculum.reset(2, curriculum.commit(2, 1), [], [], 2)
    assert (curriculum.select(2, 4, 2).rows, curriculum.refill(2, 1, first.rows, 2).rows) == ((0, 1, 2, 3), (6,))
    with pytest.raises(StaleAttemptError):
        curriculum.refill(2, 1, first.rows, 1)


def test_a_users_strategy_runs_where_the_actor_runs(ray_session: None, tmp_path: Path) -> None:
    _, ids = _stored(tmp_path, 100)
    config = CustomConfig(strategy="strategy_example:RetryStrategy")
    beside = {"env_vars": {"GAINRL_CALLER_DIR": str(Path(__file__).parents[1])}}  # as a submitted job has it
    actor = CurriculumActor.options(runtime_env=beside).remote(config, range(100), ids, 3, Storage(str(tmp_path)), {})
    ray.get(actor.reset.remote(0, None, [], [], 1), timeout=120)
    window = ray.get(actor.select.remote(0, 8, 1), timeout=120)
    slots = tuple(
        SlotOutcome(slot=slot, row=row, completions=8, accuracy=0.5, angle=0.0) for slot, row in enumerate(window.rows)
    )
    ray.get(actor.observe.remote(StepOutcome(step=0, slots=slots), [], 0, 1), timeout=120)
    kept = ray.get(actor.commit.remote(1, 1), timeout=120)
    assert kept["state"] == {"strategy": "retry", "size": 100, "partly": list(window.rows)}
    assert ray.get(actor.select.remote(1, 8, 1), timeout=120).rows[:4] == window.rows[:4]
    with pytest.raises(
        ConfigError, match=r"strategy_example:RetryStrategy: load_state_dict at step 0 raised TypeError"
    ):
        kept["state"]["partly"] = 1
        ray.get(actor.reset.remote(1, kept, [], [], 2), timeout=120)
    ray.kill(actor)
