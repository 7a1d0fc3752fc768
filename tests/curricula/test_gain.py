"""The Gaussian window: where it is drawn, and how accuracy and angle move it."""

import json
from math import exp, nan, tanh

import numpy as np
import pytest
from enumeration import set_probabilities

from gainrl_ray.config_curricula import GainConfig
from gainrl_ray.curricula.gain import GainStrategy, in_ranks
from gainrl_ray.errors import ConfigError
from gainrl_ray.types import SlotOutcome, StepOutcome

GSM8K = 7473


def _strategy(size: int = GSM8K, seed: int = 0, **settings) -> GainStrategy:
    return GainStrategy(GainConfig(**settings), np.arange(size), seed)


def _outcome(step: int, accuracy: float, angle: float = 0.4) -> StepOutcome:
    return StepOutcome(step=step, slots=(SlotOutcome(slot=0, row=0, completions=8, accuracy=accuracy, angle=angle),))


def _moved(strategy: GainStrategy, accuracy: float, angle: float = 0.4) -> float:
    before = strategy.metrics()["mu"]
    strategy.observe(_outcome(0, accuracy, angle))
    return strategy.metrics()["mu"] - before


def test_windows_of_successive_steps_follow_it_too() -> None:
    strategy = _strategy(size=5, sigma=1.5, mu_start=2.0)
    expected = set_probabilities([exp(-((k - 2) ** 2) / 4.5) for k in range(5)], 2)
    counts = dict.fromkeys(expected, 0)
    for step in range(4000):
        counts[tuple(strategy.select(step, 2).tolist())] += 1
    statistic = sum((counts[key] - 4000 * chance) ** 2 / (4000 * chance) for key, chance in expected.items())
    assert statistic < 27.9  # p = 0.001 at 9 degrees of freedom


def test_the_first_window_is_where_the_released_sampler_draws() -> None:
    """numpy's `choice` without replacement, which the released code calls, is the reference."""
    weights = np.exp(-(np.arange(GSM8K) ** 2) / (2 * 1000.0**2))
    rng = np.random.default_rng(0)
    theirs = [rng.choice(GSM8K, 256, replace=False, p=weights / weights.sum()) for _ in range(100)]
    ours = [_strategy(seed=seed).select(0, 256) for seed in range(100)]
    for share in (10, 50, 90, 100):
        reached = [np.mean([np.percentile(window, share) for window in windows]) for windows in (ours, theirs)]
        assert reached[0] == pytest.approx(reached[1], rel=0.05)
    # Measured on the released sampler: median rank about 676 of one draw.
    assert np.mean([np.median(window) for window in ours]) == pytest.approx(676, rel=0.05)


def test_rows_come_through_the_order() -> None:
    order = np.random.default_rng(3).permutation(1000)
    drawn = GainStrategy(GainConfig(sigma=20.0), order, 5).select(7, 30)
    assert drawn.tolist() == order[_strategy(size=1000, seed=5, sigma=20.0).select(7, 30)].tolist()


@pytest.mark.parametrize(("accuracy", "ranks"), [(0.2, -174), (0.5, 101), (0.8, 376)])
def test_paper_form_moves_as_tabled(accuracy: float, ranks: int) -> None:
    assert round(_moved(_strategy(mu_start=3000.0), accuracy)) == ranks


@pytest.mark.parametrize(("accuracy", "ranks"), [(0.2, 0), (0.5, 101), (0.8, 233)])
def test_compat_form_moves_as_the_released_code(accuracy: float, ranks: int) -> None:
    assert round(_moved(_strategy(mu_start=3000.0, form="compat"), accuracy)) == ranks


def test_compat_form_never_moves_back() -> None:
    assert _moved(_strategy(mu_start=3000.0, form="compat"), 0.0, angle=-0.2) == 0.0


def test_step_scale_in_ranks_and_as_a_fraction() -> None:
    expected = 100 * tanh(2 * 0.3) + 100 * tanh(0.5 * 0.4)
    assert _moved(_strategy(size=1000, mu_start=500.0, mu_step_scale=200.0), 0.8) == pytest.approx(expected)
    assert _moved(_strategy(size=1000, mu_start=0.5, mu_step_scale=0.2), 0.8) == pytest.approx(expected)
    assert (in_ranks(1.0, 40), in_ranks(0.25, 40), in_ranks(1.5, 40), in_ranks(0.0, 40)) == (40, 10, 1.5, 0)
    assert _strategy(size=1000, sigma=0.1).metrics()["sigma"] == 100.0


def test_mu_stays_in_the_index() -> None:
    strategy = _strategy(size=100, sigma=5.0)
    strategy.observe(_outcome(0, 0.0, angle=0.0))
    assert strategy.metrics()["mu"] == 0.0
    strategy.observe(_outcome(1, 1.0))
    assert strategy.metrics()["mu"] == 99.0
    assert strategy.metrics()["mu_fraction"] == 1.0
    assert _strategy(size=100, mu_start=5000.0).metrics()["mu"] == 99.0


def test_an_angle_that_was_not_measured_moves_nothing_and_shows() -> None:
    strategy = _strategy(mu_start=3000.0)
    assert _moved(strategy, 0.8, angle=nan) == pytest.approx(512 * tanh(0.6))
    assert strategy.metrics()["angle_missing"] == 1.0
    assert strategy.metrics()["angle_term"] == 0.0
    _moved(strategy, 0.8)
    assert strategy.metrics()["angle_missing"] == 0.0


def test_select_is_pure() -> None:
    strategy = _strategy(size=1000)
    state = strategy.state_dict()
    first = strategy.select(3, 32)
    strategy.select(9, 32)
    assert np.array_equal(strategy.select(3, 32), first)
    assert strategy.state_dict() == state
    assert not np.array_equal(strategy.select(4, 32), first)


def test_resume_draws_what_the_uninterrupted_run_draws() -> None:
    whole = _strategy(size=2000, seed=9)
    resumed = whole
    for step in range(20):
        if step == 10:
            resumed = _strategy(size=2000, seed=9)
            resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
            assert resumed.metrics() == whole.metrics()
        assert np.array_equal(resumed.select(step, 64), whole.select(step, 64))
        outcome = _outcome(step, accuracy=(step % 7) / 6, angle=0.3 + 0.01 * step)
        whole.observe(outcome)
        if resumed is not whole:
            resumed.observe(outcome)
        assert resumed.state_dict() == whole.state_dict()


def test_a_state_that_does_not_fit_is_refused() -> None:
    state = _strategy(size=100).state_dict()
    for wrong, message in [
        ({key: value for key, value in state.items() if key != "mu"}, "keys"),
        ({**state, "nu": 1.0}, "nu"),
        ({**state, "size": 7}, "size 7"),
        ({**state, "strategy": "length"}, "'length'"),
        ({**state, "mu": 100.0}, "mu 100.0"),
        ({**state, "mu": nan}, "mu nan"),
    ]:
        with pytest.raises(ConfigError, match=message):
            _strategy(size=100).load_state_dict(wrong)


def test_ten_thousand_steps_of_success() -> None:
    strategy = _strategy()
    for step in range(10_000):
        if step < 300 or step % 50 == 0:
            assert len(np.unique(strategy.select(step, 1024))) == 1024
        strategy.observe(_outcome(step, accuracy=1.0, angle=0.4))
    assert strategy.metrics()["mu"] == GSM8K - 1
