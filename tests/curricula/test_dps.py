"""DPS: beliefs and counts by hand and by a slow filter of every problem, and which problems come first."""

import numpy as np
import pytest
from every_strategy import outcome

from gainrl_ray.config_curricula import DpsConfig
from gainrl_ray.curricula.dps import DpsStrategy


def _strategy(size: int, seed: int = 0, **settings) -> DpsStrategy:
    return DpsStrategy(DpsConfig(**settings), range(size), seed)


class Slow:
    """One problem's chain, in plain loops, from the paper's equations."""

    def __init__(self, keep: float, prior: float) -> None:
        self.keep, self.prior = keep, prior
        self.belief = [1 / 3] * 3
        self.counts = [[prior] * 3 for _ in range(3)]

    def chance(self, start: int, end: int) -> float:
        return self.counts[start][end] / sum(self.counts[start])

    def next(self) -> list[float]:
        return [sum(self.belief[i] * self.chance(i, j) for i in range(3)) for j in range(3)]

    def step(self, state: int | None) -> None:
        if state is None:
            self.belief = self.next()
            return
        shares = [self.belief[i] * self.chance(i, state) for i in range(3)]
        mixed = [[self.keep * c + (1 - self.keep) * self.prior for c in row] for row in self.counts]
        for i in range(3):
            mixed[i][state] += shares[i] / sum(shares)
        self.counts, self.belief = mixed, [float(state == j) for j in range(3)]


def test_one_problem_by_hand() -> None:
    """Partial at first: each row gets 1/3 there, so partial again with (4/3) / (10/3) = 0.4.

    All right then: row 1 was the start, 0.7 * (1, 4/3, 1) + 0.3 + (0, 0, 1) = (1, 37/30, 2). Row 2 is
    0.7 * (1, 4/3, 1) + 0.3 = (1, 37/30, 1), of sum 97/30: partial next with 37/97.
    """
    strategy = _strategy(5)
    strategy.observe(outcome(0, [3], 0.5))
    assert strategy._partial() == pytest.approx([0.4])
    assert strategy.metrics() == {"problems_shown": 1.0, "believed_partial": pytest.approx(0.4)}
    strategy.observe(outcome(1, [3], 1.0))
    assert strategy._known.read("counts", np.array([3]))[0, 1] == pytest.approx([1, 37 / 30, 2])
    assert strategy._partial() == pytest.approx([37 / 97])
    strategy.observe(outcome(2, [4], 0.0))
    belief = strategy._known.read("belief", np.array([3, 4]))
    assert belief[0] == pytest.approx([30 / 97, 37 / 97, 30 / 97]) and belief[1].tolist() == [1, 0, 0]


def test_filter_and_choice_are_those_of_every_problem_on_its_own() -> None:
    size, rng = 25, np.random.default_rng(2)
    strategy, slow = _strategy(size, keep_counts=0.6, prior_count=0.5), [Slow(0.6, 0.5) for _ in range(size)]
    for step in range(60):
        partial = np.array([problem.next()[1] for problem in slow])
        rows = strategy.select(step, 6)
        worst_in, best_out = partial[rows].min(), np.delete(partial, rows).max()
        assert worst_in >= best_out - 1e-6
        shown = rng.permutation(size)[:5] if step % 3 else rows
        accuracy = rng.integers(0, 4, shown.size).clip(0, 2) / 2
        strategy.observe(outcome(step, shown, accuracy, completions=2))
        state = dict(zip(shown.tolist(), (2 * accuracy).astype(int).tolist(), strict=True))
        for row, problem in enumerate(slow):
            problem.step(state.get(row))
        assert np.allclose(strategy._partial(), [slow[row].next()[1] for row in strategy._known.rows], atol=1e-6)


def test_what_was_partly_solved_comes_before_the_unseen_and_those_before_the_rest() -> None:
    strategy = _strategy(12)
    strategy.observe(outcome(0, range(6), [0.5, 0.0, 1.0, 0.5, 0.0, 1.0]))
    assert set(strategy.select(1, 2).tolist()) == {0, 3}
    assert set(strategy.select(1, 8).tolist()) == {0, 3, *range(6, 12)}
    assert set(strategy.refill(1, 3, np.array([0, 6, 7, 8, 9, 10, 11])).tolist()) >= {3}


@pytest.mark.parametrize("known", [0, 30, 60])
def test_ties_are_drawn_alike(known: int) -> None:
    """Of 80 problems `known` are known to be worse; chi-square of 4 of the rest at each of 1,000 steps."""
    strategy, counts = _strategy(80), np.zeros(80)
    if known:
        strategy.observe(outcome(0, range(known), 0.0))
    for step in range(1000):
        counts[strategy.select(step, 4)] += 1
    assert counts[:known].sum() == 0
    expected = 4000 / (80 - known)
    limits = {0: 124.8, 30: 85.4, 60: 43.8}  # p = 0.001 at 79, 49 and 19 degrees of freedom
    assert ((counts[known:] - expected) ** 2 / expected).sum() < limits[known]


def test_it_finds_the_problems_that_stay_partly_solved() -> None:
    size, rng, shares = 500, np.random.default_rng(0), []
    strategy = _strategy(size)
    truth = np.where(np.arange(size) % 5 == 0, 0.5, np.where(np.arange(size) % 2, 0.01, 0.99))
    for step in range(60):
        rows = strategy.select(step, 20)
        accuracy = rng.binomial(8, truth[rows]) / 8
        shares.append(float(((accuracy > 0) & (accuracy < 1)).mean()))
        strategy.observe(outcome(step, rows, accuracy))
    assert shares[0] < 0.3 and np.mean(shares[-10:]) > 0.8
