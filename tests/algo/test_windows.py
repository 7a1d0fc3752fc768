"""Gaussian windows: both ways of drawing follow the stated distribution, and neither costs time in N or sigma."""

from math import exp

import numpy as np
import pytest
from enumeration import set_probabilities

from gainrl_ray.algo import windows
from gainrl_ray.algo.windows import draw_window

GSM8K = 7473


def _chi_square(counts: dict[tuple[int, ...], int], expected: dict[tuple[int, ...], float], draws: int) -> float:
    """Sets too rare for the chi-square approximation are pooled into one cell."""
    rare = [key for key, chance in expected.items() if draws * chance < 5]
    cells = [(counts[key], draws * chance) for key, chance in expected.items() if key not in rare]
    cells.append((sum(counts[key] for key in rare), sum(draws * expected[key] for key in rare)))
    return sum((seen - mean) ** 2 / mean for seen, mean in cells if mean > 0)


@pytest.mark.parametrize("way", ["raced", "rejected"])
@pytest.mark.parametrize(("mu", "sigma"), [(0.0, 1.5), (2.3, 1.2), (5.0, 3.0), (9.0, 4.0)])
def test_both_ways_follow_the_stated_distribution(
    way: str, mu: float, sigma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_SPARSE", np.inf if way == "raced" else 0.0)
    draws = 6000
    expected = set_probabilities([exp(-((k - mu) ** 2) / (2 * sigma**2)) for k in range(6)], 3)
    counts = dict.fromkeys(expected, 0)
    rng = np.random.default_rng(11)
    for _ in range(draws):
        counts[tuple(draw_window(rng, mu=mu, sigma=sigma, size=6, count=3).tolist())] += 1
    assert _chi_square(counts, expected, draws) < 45.3  # p = 0.001 at 20 degrees of freedom; there are at most that


def test_pairs_from_a_wide_window_follow_it() -> None:
    """As the rule chooses: 2 of 60 ranks, most of them with weight."""
    size, mu, sigma, draws = 60, 21.7, 14.0, 8000
    weights = [exp(-((k - mu) ** 2) / (2 * sigma**2)) for k in range(size)]
    expected = set_probabilities(weights, 2)
    counts = dict.fromkeys(expected, 0)
    rng = np.random.default_rng(4)
    for _ in range(draws):
        counts[tuple(draw_window(rng, mu=mu, sigma=sigma, size=size, count=2).tolist())] += 1
    cells = sum(draws * chance >= 5 for chance in expected.values())
    # Mean and 3.3 standard deviations of chi-square.
    assert cells > 300
    assert _chi_square(counts, expected, draws) < cells + 3.3 * (2 * cells) ** 0.5


def test_the_two_ways_draw_alike_on_an_index_of_many_ranks() -> None:
    """Mean, spread and quantiles of 512 of 10^6 ranks."""
    drawn = {}
    for way in ("_raced", "_rejected"):
        rng = np.random.default_rng(8)
        arguments = {"mu": 3000.4, "sigma": 2000.0, "size": 10**6, "count": 512}
        if way == "_rejected":
            first, stop = windows._reach(3000.4, 2000.0, 10**6, spare=0, exponent=36.7)
            arguments |= {"ranks": (first, stop), "share": 0.13}
        drawn[way] = np.concatenate([getattr(windows, way)(rng, **arguments) for _ in range(60)])
    for share in (10, 25, 50, 75, 90):
        raced, rejected = (np.percentile(values, share) for values in drawn.values())
        assert raced == pytest.approx(rejected, abs=100)  # 4 standard errors at the median are 60 ranks


def test_far_ranks_left_without_noise_change_no_distribution() -> None:
    """Against Gumbel noise for every rank, in a setting where most ranks are out of reach."""
    size, count, mu, sigma, draws = 400, 20, 150.5, 3.0, 3000
    rng, reference = np.random.default_rng(1), np.random.default_rng(2)
    log_weights = -((np.arange(size) - mu) ** 2) / (2 * sigma**2)
    seen, expected = np.zeros(size), np.zeros(size)
    for _ in range(draws):
        seen[draw_window(rng, mu=mu, sigma=sigma, size=size, count=count)] += 1
        expected[np.argsort(-(log_weights + reference.gumbel(size=size)))[:count]] += 1
    assert seen.sum() == expected.sum() == draws * count
    spread = np.sqrt((seen + expected) * (1 - (seen + expected) / (2 * draws)) + 1)
    assert (np.abs(seen - expected) / spread).max() < 4.5


@pytest.mark.parametrize("size", [GSM8K, 10**9])
@pytest.mark.parametrize("mu", [0.0, 3736.4, 7472.0, 46_000.0, 1e7, 1e12, -1e6])
@pytest.mark.parametrize("count", [1, 256, GSM8K])
@pytest.mark.parametrize("sigma", [0.5, 1000.0, 1e5, 1e9])
def test_every_mu_and_sigma_gives_distinct_sorted_ranks(mu: float, count: int, sigma: float, size: int) -> None:
    ranks = draw_window(np.random.default_rng(0), mu=mu, sigma=sigma, size=size, count=count)
    assert ranks.dtype == np.int64
    assert ranks.shape == (count,)
    assert (np.diff(ranks) > 0).all()
    assert 0 <= ranks[0] <= ranks[-1] < size


@pytest.mark.parametrize("sigma", [2.0, 30.0, 700.0, 1e5])
def test_the_shares_bound_how_many_proposals_are_accepted(sigma: float) -> None:
    """What keeps rounds few: the sum of the relative weights of the ranks in reach, summed here one by one."""
    size, checked = 20_000, 0
    inside = np.linspace(0, size - 1, 23)
    for mu in (*inside, *(-sigma * 10.0**power for power in range(-2, 4)), size + 3 * sigma):
        first, stop = windows._reach(mu, sigma, size, spare=0, exponent=windows._BITS * np.log(2.0))
        likeliest = min(max(round(mu), 0), size - 1)
        total = np.exp(-windows._log_odds(np.arange(first, stop), likeliest, mu, sigma)).sum()
        share = windows._FLAT_SHARE if 0 <= mu <= size - 1 else windows._STEEP_SHARE
        if share * (stop - first) >= windows._SPARSE:  # as the rule has it for one rank
            checked += 1
            assert total >= share * (stop - first)
    assert checked >= 20


def test_time_is_in_the_ranks_drawn_alone() -> None:
    """Uniform numbers taken, counted by the generator's own state, whatever the width of the window."""
    for sigma in (1e4, 1e6, 1e8, 1e12):
        generator = np.random.Philox(key=5)
        draw_window(np.random.Generator(generator), mu=1e8, sigma=sigma, size=10**9, count=1000)
        words = 4 * int(generator.state["state"]["counter"][0])
        assert 1000 < words < 40_000


def test_a_window_is_reproducible() -> None:
    windows_ = [draw_window(np.random.default_rng(3), mu=5e6, sigma=1e6, size=10**8, count=64) for _ in range(2)]
    assert np.array_equal(*windows_)
