"""Bandits: the two forms' evidence in numbers, the law of the draw, and that they find what they look for."""

from math import comb

import numpy as np
import pytest
from every_strategy import build, columns, outcome, rates

from gainrl_ray.config_curricula import BanditConfig
from gainrl_ray.curricula.bandit import BanditStrategy, BotsStrategy
from gainrl_ray.errors import ConfigError


def _mopps(size: int, seed: int = 0, **settings) -> BanditStrategy:
    return BanditStrategy(BanditConfig(**settings), range(size), seed)


def _bots(size: int, seed: int = 0, **settings) -> BotsStrategy:
    return BotsStrategy(BanditConfig(rule="bots", **settings), range(size), seed, columns(size))


def test_mopps_evidence_by_hand() -> None:
    """lambda 0.5: 0.5 * 1 + 0.5 * 1 + 6 = 7 and 3; then 0.5 * 7 + 0.5 + 2 = 6 and 0.5 * 3 + 0.5 + 6 = 8."""
    strategy = _mopps(10, keep=0.5)
    for step, (accuracy, wins, losses) in enumerate([(0.75, 7.0, 3.0), (0.25, 6.0, 8.0)]):
        strategy.observe(outcome(step, [4], accuracy))
        strategy.observe(outcome(step, [5], 1.0))  # which changes nothing of row 4
        assert [float(value[0]) for value in strategy._belief(np.array([4]))] == [wins, losses]
    assert [float(value[0]) for value in strategy._belief(np.array([3]))] == [1.0, 1.0]
    assert strategy.metrics() == {"problems_shown": 2.0, "believed_rate": (6 / 14 + 13 / 14) / 2}


def test_mopps_keeps_all_evidence_by_default() -> None:
    strategy = _mopps(10)
    for step in range(5):
        strategy.observe(outcome(step, [4], 0.25))
    assert [float(value[0]) for value in strategy._belief(np.array([4]))] == [11.0, 31.0]


def test_bots_evidence_by_hand() -> None:
    """Lambda 0.1, rho 0.25; row 2 of 5 has rate 0.5, row 1 has 0.75. All of 8 right at row 2: lead is 1.

    Then row 2: 0.9 + 0.1 + 0.75 * 8 + 0.25 * 8 * 1 = 9 and 1; row 1: 1 + 2 and 1. Then none of row 2: lead is
    0.5 * 1 + 0.5 * -1 = 0, so row 2 gets rate 0.5: 0.9 * 9 + 0.1 + 2 * 0.5 = 9.2, 0.9 * 1 + 0.1 + 6 + 1 = 8; and
    row 1: 0.9 * 3 + 0.1 + 2 * 0.75 = 4.3, 0.9 + 0.1 + 0.5 = 1.5.
    """
    strategy = _bots(5, keep=0.9, implicit_share=0.25, momentum=0.5)
    for accuracy, first, second in [(1.0, (9.0, 1.0), (3.0, 1.0)), (0.0, (9.2, 8.0), (4.3, 1.5))]:
        strategy.observe(outcome(0, [2], accuracy))
        wins, losses = strategy._belief(np.array([2, 1]))
        assert list(zip(wins, losses, strict=True)) == [pytest.approx(first), pytest.approx(second)]
    assert strategy.metrics()["lead"] == 0.0


def test_bots_in_sums_is_bots_problem_by_problem() -> None:
    size, keep, share, momentum = 30, 0.85, 0.3, 0.6
    strategy = _bots(size, keep=keep, implicit_share=share, momentum=momentum)
    rate, lead = 1.0 - columns(size)["difficulty"], 0.0
    wins, losses, rng = np.ones(size), np.ones(size), np.random.default_rng(0)
    for step in range(40):
        rows = np.sort(rng.permutation(size)[:6])
        accuracy = rates(step, rows)
        strategy.observe(outcome(step, rows, accuracy))
        ahead = accuracy.mean() - rate[rows].mean()
        fitted = ahead / (1 - rate[rows].mean()) if ahead >= 0 else ahead / rate[rows].mean()
        lead = fitted if step == 0 else momentum * lead + (1 - momentum) * fitted
        predicted = rate + lead * (1 - rate) if lead >= 0 else rate + lead * rate
        assert ((predicted >= 0) & (predicted <= 1)).all()
        solved, failed = np.zeros(size), np.zeros(size)
        solved[rows], failed[rows] = 8 * accuracy, 8 * (1 - accuracy)
        wins = keep * wins + (1 - keep) + (1 - share) * solved + share * 8 * predicted
        losses = keep * losses + (1 - keep) + (1 - share) * failed + share * 8 * (1 - predicted)
        believed = strategy._belief(np.arange(size))
        assert np.allclose(believed[0], wins, rtol=1e-5) and np.allclose(believed[1], losses, rtol=1e-5)
    assert strategy.metrics()["lead"] == pytest.approx(lead)


def test_bots_without_implicit_evidence_is_mopps_where_all_are_shown() -> None:
    """The roles of lambda are swapped between the two papers, not here: both keep 0.7."""
    mopps, bots = _mopps(20, keep=0.7), _bots(20, keep=0.7, implicit_share=0.0)
    for step in range(10):
        for strategy in (mopps, bots):
            strategy.observe(outcome(step, np.arange(20), rates(step, np.arange(20))))
        ours, theirs = mopps._belief(np.arange(20)), bots._belief(np.arange(20))
        assert np.allclose(ours, theirs, rtol=1e-5)
        assert np.array_equal(mopps.select(step, 5), bots.select(step, 5))
    assert (_mopps(20)._keep, _bots(20)._keep) == (1.0, 0.9)


def test_means_take_the_nearest_to_the_target() -> None:
    strategy = _mopps(8, belief="mean", target_accuracy=0.75)
    strategy.observe(outcome(0, np.arange(6), [0.0, 0.25, 0.5, 0.75, 1.0, 0.875], completions=1000))
    assert strategy.select(1, 3).tolist()[:2] == [3, 5]
    drawn = strategy.select(1, 3)
    assert strategy.refill(1, 3, drawn).tolist() == strategy.select(1, 6).tolist()[3:]
    assert strategy.select(1, 8).tolist()[-1] == 0


def test_thompson_draws_have_the_chances_of_the_beliefs() -> None:
    """Of Beta(7, 3) against Beta(4, 8), which is nearer 0.5: by summing both densities on a fine grid."""

    def density(wins: int, losses: int, at: np.ndarray) -> np.ndarray:
        return wins * comb(wins + losses - 1, wins) * at ** (wins - 1) * (1 - at) ** (losses - 1)

    grid = (np.arange(2000) + 0.5) / 2000
    first, second = density(7, 3, grid) / 2000, density(4, 8, grid) / 2000
    assert first.sum() == pytest.approx(1.0) and second.sum() == pytest.approx(1.0)
    nearer = np.abs(grid - 0.5)[:, None] < np.abs(grid - 0.5)[None, :]
    chance = float(first @ nearer @ second)
    strategy = _mopps(2)
    strategy.observe(outcome(0, [0], 0.75))
    strategy.observe(outcome(1, [1], 0.3, completions=10))
    chosen = sum(int(strategy.select(step, 1)[0] == 0) for step in range(3000))
    assert abs(chosen - 3000 * chance) < 3.9 * (3000 * chance * (1 - chance)) ** 0.5  # p = 0.0001


def test_candidates_are_all_alike_at_first() -> None:
    """Chi-square over 40 rows, 4,000 draws: 39 degrees of freedom."""
    strategy, counts = _mopps(40, pool_windows=2), np.zeros(40)
    for step in range(1000):
        counts[strategy.select(step, 4)] += 1
    assert ((counts - 100) ** 2 / 100).sum() < 72.1  # p = 0.001


def test_it_finds_the_problems_that_are_partly_solved() -> None:
    size, rng, shares = 600, np.random.default_rng(0), []
    strategy = build("bandit", size=size, keep=0.9, pool_windows=16)
    truth = np.where(np.arange(size) % 10 == 0, 0.5, np.where(np.arange(size) % 2, 0.02, 0.98))
    for step in range(80):
        rows = strategy.select(step, 15)
        shares.append(float((rows % 10 == 0).mean()))
        strategy.observe(outcome(step, rows, rng.binomial(8, truth[rows]) / 8))
    assert np.mean(shares[:5]) < 0.25 and np.mean(shares[-10:]) > 0.5


def test_implicit_evidence_finds_them_before_they_were_shown() -> None:
    """A policy that solves 0.6 of what the measured rates say: after ten windows of 15, of 3,000 problems."""
    distance = {}
    for example in ("bandit", "bandit, bots"):
        strategy, rng = build(example, size=3000), np.random.default_rng(0)
        truth = 0.6 * (1.0 - columns(3000)["difficulty"])
        for step in range(30):
            rows = strategy.select(step, 15)
            strategy.observe(outcome(step, rows, rng.binomial(8, truth[rows]) / 8))
            distance.setdefault(example, []).append(float(np.abs(truth[rows] - 0.5).mean()))
    means = {example: np.mean(far[10:]) for example, far in distance.items()}
    assert means["bandit, bots"] < 0.75 * means["bandit"]
    assert strategy.metrics()["lead"] == pytest.approx(-0.4, abs=0.1)


def test_a_state_of_the_other_rule_is_refused() -> None:
    for ours, theirs in (("bandit", "bandit, bots"), ("bandit, bots", "bandit")):
        with pytest.raises(ConfigError, match="start a new run"):
            build(ours).load_state_dict(build(theirs).state_dict())
