"""The scored index: its orders, its identity, what it refuses."""

import json
import string
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gainrl_ray.config import ScoringConfig
from gainrl_ray.data.scored_index import MANIFEST_FILE, SCORES_FILE, Fingerprint, ScoredIndex
from gainrl_ray.errors import DataError, IndexMismatchError
from gainrl_ray.storage import Storage

FINGERPRINT = Fingerprint(
    model_digest="m1", tokenizer_digest="t1", template_digest="c1", dataset_digest="d1", signal_version="1"
)


def index(**changes: object) -> ScoredIndex:
    """Five problems, scored in another order than their rows; scores by row: 0.5, 0.9, 0.7, 0.9, 0.1."""
    values: dict = {
        "rows": np.array([3, 0, 4, 1, 2]),
        "problem_ids": ["d", "a", "e", "b", "c"],
        "c_intra": np.array([0.625, 0.25, 0.0625, 0.5, 0.5]),
        "c_inter": np.array([0.275, 0.25, 0.0375, 0.4, 0.2]),
        "prompt_tokens": np.array([12, 14, 11, 20, 30]),
        "question_tokens": np.array([2, 4, 1, 10, 20]),
        "fingerprint": FINGERPRINT,
    }
    return ScoredIndex(**(values | changes))


def test_most_concentrated_first_and_ties_by_id() -> None:
    assert index().score.tolist() == pytest.approx([0.9, 0.5, 0.1, 0.9, 0.7])
    tied = index(c_inter=np.array([0.275, 0.25, 0.0375, 0.4, 0.4]))  # d, b, c: 0.9
    assert tied.order(ScoringConfig()).tolist() == [1, 2, 3, 0, 4]
    assert tied.order(ScoringConfig(descending=False)).tolist() == [4, 0, 1, 2, 3]


def test_the_order_does_not_depend_on_how_scores_arrived() -> None:
    rng = np.random.default_rng(0)
    count = 200
    ids = ["".join(rng.choice(list(string.ascii_letters), 5)) for _ in range(count)]
    c_intra = rng.integers(0, 6, count) / 8.0  # many ties
    arrays = {"c_intra": c_intra, "c_inter": np.zeros(count), "prompt_tokens": np.full(count, 9)}
    rows = np.arange(count)
    expected = sorted(rows, key=lambda row: (-c_intra[row], ids[row]))
    for seed in range(3):
        places = np.random.default_rng(seed).permutation(count)
        shuffled = ScoredIndex(
            rows=rows[places],
            problem_ids=[ids[place] for place in places],
            question_tokens=np.full(count, 5),
            fingerprint=FINGERPRINT,
            **{name: array[places] for name, array in arrays.items()},
        )
        assert shuffled.order(ScoringConfig()).tolist() == expected


def test_without_the_diagonal() -> None:
    # (q * c_intra - 1) / (q - 1): d (1.25-1)/1 = .25, a 0/3 = 0, e 0 (one token), b 4/9, c 9/19
    # + c_inter:                   d .525,             a .25,     e .0375,         b .844, c .674
    assert index().order(ScoringConfig(diagonal=False)).tolist() == [1, 2, 3, 0, 4]
    assert index(c_inter=np.zeros(5)).order(ScoringConfig(diagonal=False)).tolist() == [2, 1, 3, 0, 4]


def test_one_part_of_the_angle() -> None:
    scored = index(c_intra=np.array([0.5, 0.4, 0.3, 0.2, 0.1]), c_inter=np.array([0.0, 0.0, 0.2, 0.9, 0.4]))
    # rows 3, 1, 4, 0, 2: the second order breaks its tie at 0 by id, "a" (row 1) before "d" (row 3)
    assert scored.order(ScoringConfig(), "c_intra").tolist() == scored.rows.tolist()
    assert scored.order(ScoringConfig(), "c_inter").tolist() == scored.rows[[3, 4, 2, 1, 0]].tolist()


def test_the_residual_is_no_length_sort() -> None:
    """Scores that are a line over log length and a little noise: the residual's order is the noise's."""
    length = np.array([8, 16, 32, 64, 128])
    noise = np.array([0.0, 0.02, -0.04, 0.02, 0.0])  # sums to 0, and with log2 length 3..7 to 0.08-0.04*5+0.02*6 = 0
    scored = index(
        rows=np.arange(5),
        c_intra=1.0 - 0.1 * np.log2(length) + noise,
        c_inter=np.zeros(5),
        prompt_tokens=length,
        question_tokens=length - 3,
        problem_ids=list("abcde"),
    )
    assert scored.order(ScoringConfig()).tolist() == [0, 1, 2, 3, 4]
    assert scored.length_correlation == pytest.approx(-1.0)
    order = scored.order(ScoringConfig(), "angle_residual").tolist()
    assert set(order[:2]) == {1, 3} and set(order[2:4]) == {0, 4} and order[4] == 2


def test_an_index_comes_back_from_disk(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    index().save(storage)
    table = storage.read_table(SCORES_FILE)
    expected = ["problem_id", "row", "c_intra", "c_inter", "prompt_tokens", "question_tokens", "score"]
    assert table.column_names == expected
    assert table["score"].to_pylist() == pytest.approx([0.9, 0.5, 0.1, 0.9, 0.7])
    loaded = ScoredIndex.load(storage)
    assert loaded.fingerprint == FINGERPRINT
    assert loaded.problem_ids.to_pylist() == ["d", "a", "e", "b", "c"]
    assert loaded.order(ScoringConfig()).tolist() == index().order(ScoringConfig()).tolist()
    loaded.manifest.check(FINGERPRINT, 5)


@pytest.mark.parametrize(
    "field", ["model_digest", "tokenizer_digest", "template_digest", "dataset_digest", "signal_version"]
)
def test_an_index_of_other_inputs_is_refused(field: str) -> None:
    """Defects 8 and 9: an order shared by two models, or applied to other rows, is an error that says so."""
    other = replace(FINGERPRINT, **{field: "other"})
    assert other.digest != FINGERPRINT.digest
    with pytest.raises(IndexMismatchError) as caught:
        index().manifest.check(other, 5)
    message = str(caught.value)
    assert f"{field}: {getattr(FINGERPRINT, field)} here, other there" in message
    assert "score again" in message
    assert sum(line.startswith("  ") for line in message.splitlines()) == 1


def test_every_difference_is_named() -> None:
    with pytest.raises(IndexMismatchError) as caught:
        index().manifest.check(replace(FINGERPRINT, model_digest="m2", dataset_digest="d2"), 7500)
    message = str(caught.value)
    for part in (
        "model_digest: m1 here, m2 there",
        "dataset_digest: d1 here, d2 there",
        "problems: 5 here, 7500 there",
    ):
        assert part in message


def test_scores_that_are_not_finite_are_refused_with_their_ids() -> None:
    with pytest.raises(DataError, match=r"2 of 5 problems have a score that is not finite.*ids: a, c$"):
        index(c_intra=np.array([0.6, np.nan, 0.1, 0.5, np.inf]))
    with pytest.raises(DataError, match=r"1 of 5 problems have a score that is not finite.*ids: e$"):
        index(c_inter=np.array([0.6, 0.1, -np.inf, 0.5, 0.1]))


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 3], [0, 1, 2, 3, 5], [-1, 0, 1, 2, 3], [4, 3, 2, 1, 1]])
def test_rows_out_of_bounds_or_twice_are_refused(rows: list[int]) -> None:
    with pytest.raises(DataError, match=r"needs each row 0\.\.4 once"):
        index(rows=np.array(rows))


def test_impossible_lengths_and_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"question tokens outside 1\.\.prompt tokens.*ids: a, b$"):
        index(question_tokens=np.array([2, 0, 1, 21, 20]))
    with pytest.raises(DataError, match=r"arrays of one length.*'c_inter': 4"):
        index(c_inter=np.zeros(4))
    empty = dict.fromkeys(("rows", "c_intra", "c_inter", "prompt_tokens", "question_tokens"), np.array([]))
    with pytest.raises(DataError, match="at least one problem"):
        index(**empty, problem_ids=[])


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with pytest.raises(DataError, match=r"holds no scored index.*jobs/score\.py"):
        ScoredIndex.load(storage)
    index().save(storage)
    manifest = json.loads(storage.read_text(MANIFEST_FILE))
    for broken, match in (
        ("{", "no manifest of this version"),
        (json.dumps(manifest | {"format": 0}), "no manifest of this version"),
        (json.dumps(manifest | {"fingerprint": {}}), "no manifest of this version"),
        (json.dumps(manifest | {"problems": 6}), r"has 5 rows .* speaks of 6 problems"),
    ):
        storage.write_text(MANIFEST_FILE, broken)
        with pytest.raises(DataError, match=match):
            ScoredIndex.load(storage)
    storage.write_text(MANIFEST_FILE, json.dumps(manifest))
    storage.write_text(SCORES_FILE, "PAR1")
    with pytest.raises(DataError, match=r"scores\.parquet"):
        ScoredIndex.load(storage)


def test_a_released_order_is_a_length_sort_and_shows_as_one() -> None:
    """Defect 8: an order by falling score whose lengths only rise has correlation -1, which is what is logged."""
    length = np.arange(10, 60)
    scored = ScoredIndex(
        rows=np.arange(50),
        problem_ids=[f"p{row:02}" for row in range(50)],
        c_intra=1.0 / length,
        c_inter=np.zeros(50),
        prompt_tokens=length,
        question_tokens=length - 9,
        fingerprint=FINGERPRINT,
    )
    ordered = length[scored.order(ScoringConfig())]
    assert all(a < b for a, b in pairwise(ordered))
    assert scored.length_correlation == pytest.approx(-1.0)
