"""Numbers of the problems shown so far, against a dictionary of Python's."""

import json

import numpy as np
import pytest

from gainrl_ray.curricula.known_problems import KnownProblems
from gainrl_ray.errors import ConfigError

START = {"rate": 0.5, "counts": np.array([[1.0, 2.0], [3.0, 4.0]])}


def _filled(size: int, steps: int, rng: np.random.Generator) -> tuple[KnownProblems, dict, dict]:
    known, rates, counts = KnownProblems(size, START), {}, {}
    for _ in range(steps):
        rows = rng.permutation(size)[: rng.integers(0, max(size // 4, 2))]
        values = rng.integers(0, 9, (rows.size, 2, 2)) / 8
        known.write(rows, counts=values)
        counts |= dict(zip(rows.tolist(), values.tolist(), strict=True))
        known.write(rows[::2], rate=0.25)
        rates |= dict.fromkeys(rows[::2].tolist(), 0.25)
    return known, rates, counts


@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_reads_and_writes_are_those_of_a_dictionary(size: int) -> None:
    known, rates, counts = _filled(size, 9, np.random.default_rng(size))
    rows = np.random.default_rng(0).permutation(size)
    assert known.rows.tolist() == sorted(rates.keys() | counts.keys())
    assert known.known(rows).tolist() == [row in counts for row in rows.tolist()]
    assert known.read("rate", rows).tolist() == [rates.get(row, 0.5) for row in rows.tolist()]
    assert known.read("counts", rows).tolist() == [counts.get(row, [[1, 2], [3, 4]]) for row in rows.tolist()]


def test_values_of_all_known_problems_may_be_changed_at_once() -> None:
    known, rates, _ = _filled(50, 4, np.random.default_rng(0))
    known.values["rate"] = known.values["rate"] * 2
    assert known.read("rate", np.arange(50)).tolist() == [
        2 * rates.get(row, 0.5) if row in known.rows else 0.5 for row in range(50)
    ]


def test_a_checkpoint_gives_it_back_and_grows_with_what_was_shown_alone() -> None:
    known, *_ = _filled(300, 5, np.random.default_rng(1))
    text = json.dumps(known.state_dict())
    again = KnownProblems(300, START)
    again.write(np.array([7]), rate=0.0)
    again.load(json.loads(text))
    assert json.dumps(again.state_dict()) == text
    for name in START:
        assert np.array_equal(again.read(name, np.arange(300)), known.read(name, np.arange(300)))
    again.write(np.array([3]), rate=0.75)  # what was loaded can be written to
    few = KnownProblems(10**15, START)
    few.write(np.array([10**14, 5]), rate=0.75)
    assert few.read("rate", np.array([5, 6, 10**14])).tolist() == [0.75, 0.5, 0.75]
    assert len(json.dumps(few.state_dict())) < 150


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    known, *_ = _filled(300, 5, np.random.default_rng(1))
    state = known.state_dict()
    values = {"rate": np.array([0.5], "<f4"), "counts": np.ones((1, 2, 2), "<f4")}

    def one(row: int, **changes: np.ndarray) -> dict[str, str]:
        other = KnownProblems(10**6, START)
        other.write(np.array([row]), **{**values, **changes})
        return other.state_dict()

    for wrong, message in [
        ({"rows": state["rows"]}, "columns"),
        ({**state, "rate": "?"}, "damaged"),
        ({**state, "rate": state["rate"][:-8]}, "damaged"),
        ({**state, "rate": 3}, "damaged"),
        (one(300), r"rows of 0\.\.299"),
        (one(-1), r"rows of 0\.\.299"),
        (one(3, rate=np.array([np.nan])), "finite"),
    ]:
        with pytest.raises(ConfigError, match=message):
            known.load(wrong)
        assert known.state_dict() == state
