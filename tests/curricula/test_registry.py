"""Every curriculum of the config is built by its name and keeps the contract of all strategies."""

import json
import tracemalloc
from typing import get_args

import numpy as np
import pytest
from every_strategy import EXAMPLES, build, columns, config, outcome, rates

from gainrl_ray.config_curricula import CurriculumConfig
from gainrl_ray.curricula.base import Strategy
from gainrl_ray.curricula.checked import CheckedStrategy
from gainrl_ray.curricula.gain import GainStrategy
from gainrl_ray.curricula.registry import build_strategy, strategy_class
from gainrl_ray.errors import ConfigError, DataError

SIGNALS = {
    **{"gain": "angle", "length": "length", "pass_rate": "pass_rate", "external": "external"},
    **{"uniform": "none", "sequential": "none", "adarft": "difficulty", "bandit": "none", "bandit, bots": "none"},
    **{"dps": "none", "dots": "none", "custom": "none"},
}
NEEDS = {"adarft": ("difficulty",), "bandit, bots": ("difficulty",), "dots": ("embedding",)}
every = pytest.mark.parametrize("example", EXAMPLES)


def test_every_member_of_the_config_is_here() -> None:
    members = get_args(get_args(CurriculumConfig)[0])
    assert {member.model_fields["name"].default for member in members} == {config(name).name for name in EXAMPLES}


@every
def test_the_class_tells_what_it_needs_before_it_is_built(example: str) -> None:
    kind = strategy_class(config(example))
    assert (kind.signal, kind.needs) == (SIGNALS[example], NEEDS.get(example, ()))
    assert kind.wants_angle == issubclass(kind, GainStrategy)
    assert example == "custom" or kind.name == config(example).name


@every
def test_every_strategy_keeps_the_contract(example: str) -> None:
    strategy, resumed = build(example, size=60), build(example, size=60)
    for step in range(30):
        rows = strategy.select(step, 16)
        assert rows.dtype == np.int64
        assert len(set(rows.tolist())) == 16 and rows.min() >= 0 and rows.max() < 60
        assert np.array_equal(rows, strategy.select(step, 16))
        text = json.dumps(strategy.state_dict(), allow_nan=False)
        again = build(example, size=60)
        again.load_state_dict(json.loads(text))
        assert np.array_equal(again.select(step, 16), rows)
        assert json.dumps(again.state_dict()) == text
        resumed = again if step == 12 else resumed
        for one in {strategy, resumed}:
            one.observe(outcome(step, rows, rates(step, rows)))
        if step >= 12:
            assert resumed.state_dict() == strategy.state_dict()
        assert all(isinstance(value, float | int) for value in strategy.metrics().values())


@every
def test_equal_seeds_draw_equal_windows_and_others_draw_others(example: str) -> None:
    windows = []
    for seed in (5, 5, 6):
        strategy, drawn = build(example, size=500, seed=seed), []
        for step in range(4):
            rows = strategy.select(step, 16)
            strategy.observe(outcome(step, rows, rates(step, rows)))
            drawn.append(rows.tolist())
        windows.append(drawn)
    assert windows[0] == windows[1]
    assert windows[0] != windows[2] or example in ("sequential", "adarft")  # without ties, nothing of adarft is random


@every
@pytest.mark.parametrize(("size", "count"), [(1, 1), (2, 2), (3, 1), (33, 32), (10**6, 64)])
def test_from_one_problem_to_a_million(example: str, size: int, count: int) -> None:
    strategy = build(example, size=size)
    for step in range(3):
        rows = strategy.select(step, count)
        assert len(set(rows.tolist())) == count and rows.min() >= 0 and rows.max() < size
        more = strategy.refill(step, count, rows)
        assert more.dtype == np.int64
        assert len(set(more.tolist()) - set(rows.tolist())) == more.size == min(count, size - count)
        strategy.observe(outcome(step, rows, rates(step, rows)))


@every
def test_ten_thousand_steps_of_equal_rewards(example: str) -> None:
    """All wrong for ever, and then all right."""
    strategy = build(example, size=50)
    for step in range(10_000):
        accuracy = float(step >= 5000)
        if step % 500 == 0:
            rows = strategy.select(step, 16)
            assert len(set(rows.tolist())) == 16
        strategy.observe(outcome(step, rows[:2] if step % 500 else rows, accuracy))
    assert len(json.dumps(strategy.state_dict(), allow_nan=False)) < 10_000
    assert all(np.isfinite(value) for value in strategy.metrics().values())


@every
def test_the_whole_dataset_can_be_one_window(example: str) -> None:
    assert sorted(build(example).select(3, 40).tolist()) == list(range(40))


@every
def test_refills_go_on_until_nothing_is_left(example: str) -> None:
    strategy = build(example, size=50)
    for step in range(2):
        drawn = strategy.select(step, 16)
        for count in (16, 10, 16, 4):
            more = strategy.refill(step, count, drawn)
            assert more.size == min(count, 50 - drawn.size)
            drawn = np.concatenate([drawn, more])
        assert sorted(drawn.tolist()) == list(range(50))
        strategy.observe(outcome(step, drawn, rates(step, drawn)))


@pytest.mark.parametrize("example", ["adarft", "bandit", "bandit, bots", "dps", "dots"])
def test_windows_under_way_are_left_out_while_others_are_left(example: str) -> None:
    strategy = build(example, size=60)
    for step in range(0, 12, 2):
        first = strategy.select(step, 20)
        second = strategy.select(step + 1, 20, first)
        assert not set(first.tolist()) & set(second.tolist())
        more = strategy.refill(step, 15, first, second)
        assert not set(more.tolist()) & set(first.tolist()) and len(set(more.tolist()) - set(second.tolist())) == 15
        assert len(set(strategy.select(step + 1, 50, first).tolist())) == 50
        for rows in (first, second):
            strategy.observe(outcome(step, rows, rates(step, rows)))


@every
def test_more_problems_than_there_are_is_an_error_naming_both(example: str) -> None:
    for count in (0, 41):
        with pytest.raises(ConfigError, match=rf"problems_per_step is {count} .* has 40 problems"):
            build(example).select(0, count)


@every
def test_an_order_of_nothing_is_an_error(example: str) -> None:
    with pytest.raises(ConfigError, match="no problems"):
        build_strategy(config(example), order=np.arange(0), seed=0, columns=columns(0))


@pytest.mark.parametrize("example", NEEDS)
def test_columns_that_are_missing_or_short_are_errors(example: str) -> None:
    for given, received in (({}, "none"), (columns(39), "39")):
        with pytest.raises(ConfigError, match=f"needs the column '{NEEDS[example][0]}' of 40 problems, .* {received}"):
            build_strategy(config(example), order=np.arange(40), seed=0, columns=given)


@pytest.mark.parametrize("example", NEEDS)
def test_a_value_that_is_not_a_number_is_an_error_with_its_row(example: str) -> None:
    given = {name: values.copy() for name, values in columns(40).items()}
    for values in given.values():
        values[7] = np.nan
    strategy = build_strategy(config(example), order=np.arange(40), seed=0, columns=given)
    with pytest.raises(DataError, match=r"row 7 is (nan|not finite)"):
        for step in range(2):  # DOTS predicts from the second step on
            strategy.select(step, 40 - 8 * step)
            strategy.observe(outcome(step, np.arange(8, 40), 0.5))


@every
@pytest.mark.parametrize("accuracy", [np.nan, -0.1, 1.1])
def test_an_accuracy_that_is_none_leaves_the_state_as_it_was(example: str, accuracy: float) -> None:
    strategy = CheckedStrategy(build(example))
    strategy.observe(outcome(0, [1, 2], 0.5))
    before = strategy.state_dict()
    with pytest.raises(DataError, match="step 1, slot 1, row 9: accuracy"):
        strategy.observe(outcome(1, [3, 9], [0.5, accuracy]))
    assert strategy.state_dict() == before


@every
def test_a_state_of_another_strategy_is_refused(example: str) -> None:
    strategy = build(example)
    strategy.observe(outcome(0, [1, 2], 0.5))
    before = strategy.state_dict()
    for other in EXAMPLES.keys() - {example}:
        with pytest.raises(ConfigError, match="start a new run"):
            strategy.load_state_dict(build(other).state_dict())
    with pytest.raises(ConfigError, match="size 41"):
        strategy.load_state_dict(build(example, size=41).state_dict())
    assert strategy.state_dict() == before


@pytest.mark.parametrize("example", EXAMPLES.keys() - {"custom"})
def test_neither_order_nor_columns_are_copied_or_read_through(example: str) -> None:
    """Of arrays of 10^9 rows that take no memory, any other use than looking up what was drawn would fail."""
    size = 10**9

    def same(value: float, dtype: str, *shape: int) -> np.ndarray:
        strides = (0,) * (1 + len(shape))
        return np.lib.stride_tricks.as_strided(np.full(1, value, dtype), shape=(size, *shape), strides=strides)

    given = {"difficulty": same(0.5, "float32"), "embedding": same(1.0, "float32", 4)}
    order = same(0, "int32") if SIGNALS[example] != "none" else range(size)
    tracemalloc.start()
    strategy: Strategy = build_strategy(config(example), order=order, seed=0, columns=given)
    for step in range(2):
        rows = strategy.select(step, 16)
        assert rows.tolist() == [0] * 16 if SIGNALS[example] != "none" else len(set(rows.tolist())) == 16
        strategy.observe(outcome(step, rows, 0.5))
    strategy.load_state_dict(strategy.state_dict())
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    own = build_strategy(config(example), order=range(size), seed=0, columns=given).select(5, 16)
    assert own.dtype == np.int64 and len(set(own.tolist())) == 16
