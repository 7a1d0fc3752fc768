"""What a strategy does wrong is an error that names it and the step, and the run's state stays as it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_strategy import EXAMPLES, build, outcome

from gainrl_ray.actors.curriculum import Curriculum
from gainrl_ray.curricula.base import Strategy
from gainrl_ray.curricula.checked import CheckedStrategy
from gainrl_ray.curricula.sequential import SequentialStrategy
from gainrl_ray.errors import ConfigError
from gainrl_ray.storage import Storage

LABEL = "test_checked:Wrong"


class Wrong(SequentialStrategy):
    """Does as `returns` says: an exception is raised, anything else is returned."""

    returns: Any = None

    def select(self, *_: Any) -> Any:
        return self._do()

    refill = state_dict = metrics = load_state_dict = select

    def observe(self, *_: Any) -> None:
        self._do()

    def _do(self) -> Any:
        if isinstance(self.returns, Exception):
            raise self.returns
        return self.returns


def _checked(returns: Any) -> CheckedStrategy:
    strategy = Wrong(None, range(10), 0)  # pyright: ignore[reportArgumentType]
    strategy.returns = returns
    return CheckedStrategy(strategy)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([1, 2, 1], "returned row 1 2 times, expected distinct rows"),
        ([1, 2], "returned 2 rows, expected 3"),
        ([1, 2, 3, 4], "returned 4 rows, expected 3"),
        ([1, 2, 10], r"returned row 10, of a dataset of rows 0\.\.9"),
        ([-1, 2, 3], "returned row -1"),
        ([0.5, 1.0, 2.0], "returned float64 of shape"),
        ([[1, 2, 3]], r"returned int64 of shape \(1, 3\)"),
        (["a", "b", "c"], "returned <U1 of shape"),
        ([[1], [2, 3]], r"returned a list that is no array: .*inhomogeneous"),
        (None, "returned object of shape"),
        (ZeroDivisionError("by nothing"), r"raised ZeroDivisionError: by nothing \(.*test_checked\.py:\d+\)"),
    ],
)
def test_wrong_windows(rows: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"curriculum {LABEL}: select at step 7 {message}"):
        _checked(rows).select(7, 3)


def test_wrong_refills() -> None:
    drawn = np.arange(8)
    assert _checked([9, 8]).refill(0, 5, drawn).tolist() == [9, 8]  # as many as there are left
    for rows, message in [
        ([9, 7], "returned row 7, which the step has already"),
        ([9], "returned 1 rows, expected 5"),
        ([9, 9], "returned row 9 2 times"),
    ]:
        with pytest.raises(ConfigError, match=f"{LABEL}: refill at step 4 {message}"):
            _checked(rows).refill(4, 5, drawn)


def test_wrong_states_and_figures() -> None:
    for call, returns, message in [
        (CheckedStrategy.state_dict, {"rows": {1, 2}}, "state_dict, as JSON, at step 0 raised TypeError"),
        (CheckedStrategy.state_dict, {"mu": float("nan")}, "state_dict, as JSON, at step 0 raised ValueError"),
        (CheckedStrategy.state_dict, KeyError("mu"), "state_dict at step 0 raised KeyError"),
        (CheckedStrategy.metrics, {"mu": "high"}, "metrics, as numbers, at step 0 raised ValueError"),
        (lambda checked: checked.load_state_dict({}), KeyError("mu"), "load_state_dict at step 0 raised KeyError"),
        (lambda checked: checked.observe(outcome(6, [1], 0.5)), OSError("x"), "observe at step 6 raised OSError"),
    ]:
        with pytest.raises(ConfigError, match=f"{LABEL}: {message}"):
            call(_checked(returns))


def test_errors_of_our_own_pass_through() -> None:
    error = ConfigError("count too large")
    with pytest.raises(ConfigError) as raised:
        _checked(error).select(0, 3)
    assert raised.value is error


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_right_passes_unchanged(example: str) -> None:
    plain, checked = build(example), CheckedStrategy(build(example))
    for step in range(3):
        rows = plain.select(step, 12)
        assert np.array_equal(checked.select(step, 12), rows)
        assert np.array_equal(checked.refill(step, 4, rows), plain.refill(step, 4, rows))
        plain.observe(outcome(step, rows, 0.5))
        checked.observe(outcome(step, rows, 0.5))
        assert checked.state_dict() == plain.state_dict() and checked.metrics() == plain.metrics()


def _dps_curriculum(folder: Path, size: int) -> Curriculum:
    config: Any = build("dps")._config
    return Curriculum(config, range(size), [f"p{row}" for row in range(size)], 0, Storage(str(folder)))


def test_a_run_keeps_its_state_when_its_strategy_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window or an outcome that is refused leaves no trace; with the strategy mended the run goes on as ever."""

    def ready() -> Curriculum:
        curriculum = _dps_curriculum(tmp_path, 40)
        curriculum.reset(0, None, [], [], attempt=1)
        return curriculum

    def step(curriculum: Curriculum, number: int) -> tuple[Any, Any, Any]:
        window = curriculum.select(number, 8, attempt=1)
        metrics = curriculum.observe(outcome(number, window.rows, 0.5), [0], number, attempt=1)
        return window, metrics, curriculum.commit(number + 1, attempt=1)

    failing, whole = ready(), ready()
    assert step(failing, 0) == step(whole, 0)
    kind: type[Strategy] = type(build("dps"))
    with monkeypatch.context() as patch:
        patch.setattr(kind, "select", lambda *_: [3, 3, 3, 3, 3, 3, 3, 3])
        with pytest.raises(ConfigError, match="DpsStrategy: select at step 1 returned row 3 8 times"):
            failing.select(1, 8, attempt=1)
        assert [entry["step"] for entry in failing.ledger()] == [0]
    window = failing.select(1, 8, attempt=1)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "observe", lambda *_: 1 / 0)
        with pytest.raises(ConfigError, match="DpsStrategy: observe at step 1 raised ZeroDivisionError"):
            failing.observe(outcome(1, window.rows, 0.5), [0], 1, attempt=1)
        assert failing.ledger()[1]["statuses"] == ["planned"] * 8
    assert step(failing, 1) == step(whole, 1)
    assert step(failing, 2) == step(whole, 2)


def test_windows_ahead_differ(tmp_path: Path) -> None:
    """With steps planned ahead of the learner, as max_staleness does, a strategy that knows no news draws others."""
    curriculum = _dps_curriculum(tmp_path, 60)
    curriculum.reset(0, None, [], [], attempt=1)
    curriculum.select(0, 10, attempt=1)
    curriculum.observe(outcome(0, range(10), 0.5), [], 0, attempt=1)
    rows = [row for step in (1, 2, 3) for row in curriculum.select(step, 8, attempt=1).rows]
    assert len(set(rows)) == 24
