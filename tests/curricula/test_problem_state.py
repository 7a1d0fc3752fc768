"""State of every problem: against a dictionary of Python's, through checkpoints, and as strategies will use it."""

import json
import time
from itertools import combinations

import numpy as np
import pytest

from gainrl_ray.algo.permutation import Permutation
from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.curricula.problem_state import Column, ProblemState
from gainrl_ray.errors import ConfigError

COLUMNS = {
    "rate": Column(start=0.5, ranked=True),
    "visits": Column("int32", ranked=True),
    "seen": Column("float64", -1),
}


def _drawn(rng: np.random.Generator, size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rows of a step, and values with many ties."""
    rows = rng.permutation(size)[: rng.integers(1, max(size // 3, 2))]
    few = rng.integers(0, 6, rows.size)
    return rows, {"rate": few / 8, "visits": rng.integers(0, 4, rows.size), "seen": rng.random(rows.size)}


@pytest.mark.parametrize("size", [1, 2, 32, 33, 300, 1025])
def test_reads_writes_and_tops_are_those_of_a_dictionary(size: int) -> None:
    state, rng = ProblemState(size, COLUMNS, seed=3), np.random.default_rng(size)
    places = Permutation(size, 3, "problem state")(np.arange(size))
    slow = {name: dict.fromkeys(range(size), kind.start) for name, kind in COLUMNS.items()}
    for _ in range(6):
        rows, values = _drawn(rng, size)
        state.write(rows, **values)
        for name in COLUMNS:
            slow[name].update(zip(rows.tolist(), values[name].tolist(), strict=True))
            assert state.read(name, np.arange(size)).tolist() == list(slow[name].values())
        for name in ("rate", "visits"):
            best = sorted(range(size), key=lambda row: (-slow[name][row], places[row]))
            for count in {1, min(5, size), min(100, size), size}:
                assert state.top(name, count).tolist() == best[:count]
            for threshold in (-1.0, 0.25, 2, 4):
                assert state.at_least(name, threshold).tolist() == [
                    r for r in range(size) if slow[name][r] >= threshold
                ]


def test_before_anything_is_known_the_top_is_random_rows() -> None:
    tops = [set(ProblemState(10_000, COLUMNS, seed).top("rate", 500).tolist()) for seed in range(6)]
    assert all(len(top) == 500 and 4600 < np.mean(list(top)) < 5400 for top in tops)  # 3 standard errors
    assert all(len(one & other) < 60 for one, other in combinations(tops, 2))  # 25 on average


def test_only_written_columns_change_and_one_value_may_stand_for_all() -> None:
    state = ProblemState(50, COLUMNS, seed=0)
    state.write(np.array([4, 2]), rate=0.75)
    assert state.read("rate", np.array([2, 3, 4])).tolist() == [0.75, 0.5, 0.75]
    assert state.read("visits", np.array([2, 4])).tolist() == [0, 0]
    assert sorted(state.top("rate", 2).tolist()) == [2, 4]


def test_checkpoints_hold_what_changed_and_give_the_state_back() -> None:
    state, rng = ProblemState(2000, COLUMNS, seed=1), np.random.default_rng(0)
    base, kept = None, []
    for step in range(30):
        if step in (10, 20):
            base = state.compact()
            assert state.state_dict()["rows"] == []
        rows, values = _drawn(rng, 60)
        state.write(rows + 40 * step, **values)
        kept.append((json.dumps(state.state_dict()), base, state.read("rate", np.arange(2000))))
        assert len(json.loads(kept[-1][0])["rows"]) <= 40 * (step % 10) + 60
    fresh = ProblemState(2000, COLUMNS, seed=1)
    for place in (29, 4, 15, 20, 0):  # also back in time, over a state that was loaded and went on
        text, base, rates = kept[place]
        fresh.load(json.loads(text), base)
        assert np.array_equal(fresh.read("rate", np.arange(2000)), rates)
        assert json.dumps(fresh.state_dict()) == text
        expected = np.flatnonzero(rates == rates.max())
        assert sorted(fresh.top("rate", len(expected)).tolist()) == expected.tolist()
        fresh.write(np.array([7, 1999]), rate=9.0, visits=3, seen=0.0)


def test_compacting_changes_nothing_and_bases_go_on_from_bases() -> None:
    states = [ProblemState(500, COLUMNS, seed=1) for _ in range(2)]
    rng = np.random.default_rng(3)
    for step in range(20):
        rows, values = _drawn(rng, 500)
        for state in states:
            state.write(rows, **values)
        base = states[0].compact() if step % 3 == 0 else None
        if base is not None and step == 9:
            states[0] = ProblemState(500, COLUMNS, seed=1)
            states[0].load({"size": 500, "base": "", "rows": [], "values": {name: [] for name in COLUMNS}})
            with pytest.raises(ConfigError, match="base file of the run"):
                states[0].load({"size": 500, "base": "x", "rows": [], "values": {name: [] for name in COLUMNS}}, base)
            checkpoint = json.loads(json.dumps(states[1].state_dict()))
            states[0].load(checkpoint)
        assert states[0].top("rate", 40).tolist() == states[1].top("rate", 40).tolist()
    last = [state.compact() for state in states]
    assert all(np.array_equal(last[0][name], last[1][name]) for name in ("rows", *COLUMNS))
    assert states[0].state_dict() == states[1].state_dict()


def test_what_does_not_fit_is_refused() -> None:
    state = ProblemState(10, COLUMNS, seed=0)
    with pytest.raises(ValueError, match="some of them twice"):
        state.write(np.array([1, 1]), rate=0.0)
    with pytest.raises(ValueError, match="NaN for the ranked column 'rate'"):
        state.write(np.array([1, 2]), rate=np.array([0.0, np.nan]))
    for rows in ([-1], [10]):
        with pytest.raises(IndexError, match="of 10 problems"):
            state.write(np.array(rows), rate=0.0)
    for count in (0, 11):
        with pytest.raises(ValueError, match=f"the top {count} of 10"):
            state.top("rate", count)
    assert state.state_dict()["rows"] == []
    saved = state.state_dict()
    for wrong in ({**saved, "size": 11}, {**saved, "base": "b"}, {**saved, "values": {"rate": []}}):
        with pytest.raises(ConfigError, match="start a new run"):
            state.load(wrong)


def test_a_bandit_with_decay_finds_the_problems_near_its_target() -> None:
    """MoPPS: Beta counts with decay at each visit, Thompson draws for a pool of candidates, those nearest 0.5."""
    size, pool, count, decay = 800, 200, 20, 0.9
    truth = np.where(np.arange(size) % 10 == 0, 0.5, 0.02)
    state = ProblemState(size, {"wins": Column(start=1.0), "losses": Column(start=1.0)}, seed=0)
    slow = dict.fromkeys(range(size), (1.0, 1.0))
    shares = []
    for step in range(70):
        candidates = Permutation(size, 0, "pool", step)(np.arange(pool))
        wins, losses = state.read("wins", candidates), state.read("losses", candidates)
        assert np.allclose([slow[row] for row in candidates.tolist()], np.stack([wins, losses], axis=1), rtol=1e-5)
        samples = coordinate_rng(0, "thompson", step).beta(wins, losses)
        chosen = np.argpartition(np.abs(samples - 0.5), count)[:count]
        rows, shown = candidates[chosen], coordinate_rng(0, "rollouts", step).binomial(8, truth[candidates[chosen]])
        kept = 1 - decay
        state.write(rows, wins=decay * wins[chosen] + kept + shown, losses=decay * losses[chosen] + kept + 8 - shown)
        for row, won in zip(rows.tolist(), shown.tolist(), strict=True):
            slow[row] = (decay * slow[row][0] + kept + won, decay * slow[row][1] + kept + 8 - won)
        shares.append((truth[rows] == 0.5).mean())
    assert np.mean(shares[:5]) < 0.2 < 0.4 < np.mean(shares[-10:])


def test_beliefs_that_drift_are_brought_up_to_date_when_read() -> None:
    """DPS: three-state beliefs that drift with every step, against propagating all of them at every step."""
    drift = np.array([[0.9, 0.1, 0.0], [0.05, 0.9, 0.05], [0.0, 0.1, 0.9]])
    names = ("wrong", "partial", "right")
    columns = {name: Column("float64", 1 / 3) for name in names} | {"step": Column("int32")}
    state, dense = ProblemState(200, columns, seed=0), np.full((200, 3), 1 / 3)
    rng = np.random.default_rng(0)
    for step in range(1, 25):
        dense = dense @ drift
        rows = rng.permutation(200)[:50]
        now = np.stack([state.read(name, rows) for name in names], axis=1)
        behind = step - state.read("step", rows)
        while behind.any():
            now[behind > 0] = now[behind > 0] @ drift
            behind = np.maximum(behind - 1, 0)
        assert np.allclose(now, dense[rows])
        shown = rows[:20]
        dense[shown] = np.eye(3)[shown % 3]
        state.write(shown, step=step, **{name: dense[shown, place] for place, name in enumerate(names)})


def test_time_of_a_step_does_not_grow_with_the_number_of_problems() -> None:
    """Least of several turns; a hundredfold in size is one or two more levels, so far less than a hundredfold."""
    least = {}
    for size in (20_000, 2_000_000):
        state = ProblemState(size, {"rate": Column(start=0.5, ranked=True)}, seed=0)
        seconds = []
        for turn in range(7):
            started = time.perf_counter()
            rows = state.top("rate", 200)
            state.write(rows, rate=0.1 + 0.01 * turn)
            seconds.append(time.perf_counter() - started)
        least[size] = min(seconds)
    assert least[2_000_000] < 10 * least[20_000]
    assert state.nbytes < 2_000_000 * 4 * 1.04
