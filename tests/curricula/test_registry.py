"""Every curriculum of the config is built by its name and keeps the contract of all strategies."""

import json
import tracemalloc

import numpy as np
import pytest
from pydantic import TypeAdapter

from gainrl_ray.config_curricula import CurriculumConfig
from gainrl_ray.curricula.base import Strategy
from gainrl_ray.curricula.registry import build_strategy, strategy_class
from gainrl_ray.errors import ConfigError
from gainrl_ray.types import SlotOutcome, StepOutcome

SIGNALS = {"gain": "angle", "length": "length", "uniform": "none", "sequential": "none"}


def _config(name: str) -> CurriculumConfig:
    return TypeAdapter(CurriculumConfig).validate_python({"name": name})


def _build(name: str, size: int = 40, seed: int = 0) -> Strategy:
    return build_strategy(_config(name), order=np.arange(size), seed=seed)


@pytest.mark.parametrize(("name", "signal"), SIGNALS.items())
def test_the_class_tells_its_signal_before_it_is_built(name: str, signal: str) -> None:
    kind = strategy_class(_config(name))
    assert (kind.name, kind.signal, kind.wants_angle) == (name, signal, signal != "none")


@pytest.mark.parametrize("name", SIGNALS)
def test_every_strategy_keeps_the_contract(name: str) -> None:
    strategy = _build(name)
    for step in range(30):
        rows = strategy.select(step, 16)
        assert rows.dtype == np.int64
        assert len(set(rows.tolist())) == 16
        assert np.array_equal(rows, strategy.select(step, 16))
        again = _build(name)
        again.load_state_dict(json.loads(json.dumps(strategy.state_dict())))
        assert np.array_equal(again.select(step, 16), rows)
        strategy.observe(
            StepOutcome(step=step, slots=(SlotOutcome(slot=0, row=0, completions=8, accuracy=0.6, angle=0.4),))
        )
        assert all(isinstance(value, float) for value in strategy.metrics().values())


@pytest.mark.parametrize("name", SIGNALS)
def test_the_whole_dataset_can_be_one_window(name: str) -> None:
    assert sorted(_build(name).select(3, 40).tolist()) == list(range(40))


@pytest.mark.parametrize("name", SIGNALS)
def test_more_problems_than_there_are_is_an_error_naming_both(name: str) -> None:
    with pytest.raises(ConfigError, match=r"problems_per_step is 41 .* has 40 problems"):
        _build(name).select(0, 41)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_state_of_another_strategy_is_refused(name: str) -> None:
    for other in SIGNALS.keys() - {name}:
        with pytest.raises(ConfigError, match="start a new run"):
            _build(name).load_state_dict(_build(other).state_dict())


@pytest.mark.parametrize("name", SIGNALS)
def test_the_order_is_neither_copied_nor_read_through(name: str) -> None:
    """Of an order of 10^9 rows that takes no memory, any other use than looking up what was drawn would fail."""
    size = 10**9
    same = np.lib.stride_tricks.as_strided(np.zeros(1, dtype=np.int32), shape=(size,), strides=(0,))
    tracemalloc.start()
    strategy = build_strategy(_config(name), order=same, seed=0)
    assert strategy.select(5, 16).tolist() == [0] * 16
    strategy.load_state_dict(strategy.state_dict())
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    own = build_strategy(_config(name), order=range(size), seed=0).select(5, 16)
    assert own.dtype == np.int64 and len(set(own.tolist())) == 16
