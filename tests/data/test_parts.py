"""Parts of a dataset: how many, which ones, and in what words."""

import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from gainrl_ray.config import DataConfig, ModelConfig, PromptConfig, SourceConfig
from gainrl_ray.data.parts import best_rows, describe, keep_scores, known_labels, part_size, random_rows
from gainrl_ray.data.problem_table import ProblemTable
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.errors import ConfigError, DataError
from gainrl_ray.model.loading import load_tokenizer
from gainrl_ray.storage import Storage


def data(**fields: Any) -> DataConfig:
    return DataConfig(**({"keep_by": "label"} if "keep" in fields else {}), **fields)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> ProblemTable:
    """Six problems, whose ids rise against their rows."""
    folder = tmp_path_factory.mktemp("parts")
    rows = [
        {"id": f"q{5 - k}", "problem": "1+1?", "answer": 2, "level": level}
        for k, level in enumerate([3, 1, None, 2, 3, 1])
    ]
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = PromptBuilder(load_tokenizer(ModelConfig()), PromptConfig())
    source = SourceConfig(path=str(folder / "set.jsonl"), difficulty_column="level")
    return prepare_problems(source, prompts=prompts, on_bad_row="error", storage=Storage(str(folder)))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 200),
        ({"fraction": 0.5}, 100),
        ({"fraction": 0.0126}, 3),  # 2.52
        ({"keep": "top:0.1"}, 20),
        ({"keep": "bottom:.25", "fraction": 0.5}, 25),
        ({"keep": "top:1"}, 1),
        ({"keep": "top:1.0"}, 200),
        ({"keep": "top:100", "fraction": 0.5}, 100),
    ],
)
def test_sizes_of_parts_of_200(fields: dict[str, Any], expected: int) -> None:
    assert part_size(data(**fields), 200) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fraction": 0.001}, r"data\.fraction is 0\.001, of 200 problems that is none: raise it"),
        ({"keep": "top:0"}, r"data\.keep is top:0, which is 0 of 200 problems: give 1 to 200"),
        ({"keep": "top:0.001"}, r"data\.keep is top:0\.001, which is 0 of 200 problems"),
        ({"keep": "bottom:101", "fraction": 0.5}, r"data\.keep is bottom:101, which is 101 of 100 problems: give 1 to"),
        ({"keep": "top:1.5"}, r"300 of 200 problems"),
    ],
)
def test_parts_of_no_problem_or_of_too_many_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        part_size(data(**fields), 200)


@pytest.mark.parametrize("keep", ["best:5", "top", "top:", "top:-1", "top:5%", "top:1e3", "TOP:5", "top:5\n", "5"])
def test_an_unknown_rule_is_refused(keep: str) -> None:
    with pytest.raises(ValidationError, match=r"accepted: top: or bottom: and a number of problems, or a fraction"):
        data(keep=keep)


def test_a_rule_needs_something_to_go_by() -> None:
    for fields in ({"keep": "top:5"}, {"keep_by": "angle"}):
        with pytest.raises(ValidationError, match=r"set both, as in keep=top:0\.1 and keep_by=pass_rate, or neither"):
            DataConfig.model_validate(fields)


def test_the_random_part_is_of_the_seed() -> None:
    rows = random_rows(data(fraction=0.25), 400, seed=3)
    assert len(set(rows.tolist())) == 100 and rows.min() >= 0 and rows.max() < 400 and (np.diff(rows) > 0).all()
    assert rows.tolist() == random_rows(data(fraction=0.25), 400, seed=3).tolist()
    assert rows.tolist() != random_rows(data(fraction=0.25), 400, seed=4).tolist()
    assert random_rows(data(), 5, seed=3).tolist() == [0, 1, 2, 3, 4]


def test_every_row_is_as_likely_to_be_in_the_random_part() -> None:
    """Each of 20 rows is in a half 500 times of 1,000, give or take five standard deviations of 15.8."""
    counts = np.zeros(20)
    for seed in range(1000):
        counts[random_rows(data(fraction=0.5), 20, seed)] += 1
    assert counts.sum() == 10_000 and abs(counts - 500).max() < 80


def test_what_is_worth_keeping() -> None:
    assert keep_scores("pass_rate", np.array([0.0, 0.25, 0.5, 1.0])).tolist() == [0.0, 0.1875, 0.25, 0.0]
    # mean 0.5: 1 - 0.25, 1 - 0.01, 1 - 0.36
    expected = [1 - 0.3**2, 1 - 0.1**2, 1 - 0.4**2]
    np.testing.assert_allclose(keep_scores("gold_likelihood", np.array([0.2, 0.4, 0.9])), expected)
    for name in ("angle", "label", "gradient_alignment"):
        assert keep_scores(name, np.array([2.0, -1.0])).tolist() == [2.0, -1.0]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [("top:1", [4]), ("top:2", [0, 4]), ("top:3", [0, 3, 4]), ("bottom:1", [5]), ("bottom:0.6", [1, 3, 5])],
)
def test_the_best_rows_rise_and_ties_are_broken_by_id(keep: str, expected: list[int], table: ProblemTable) -> None:
    """Rows 0, 1, 3, 4, 5 have the values 3, 1, 2, 3, 1; of rows 0 and 4 the second has the smaller id, q1."""
    rows = np.array([0, 1, 3, 4, 5])
    config = data(keep=keep)
    assert best_rows(config, rows, np.array([3.0, 1, 2, 3, 1]), table).tolist() == expected


def test_rows_without_a_label_are_named(table: ProblemTable) -> None:
    assert known_labels(table, np.array([4, 0, 1])).tolist() == [3.0, 3.0, 1.0]
    with pytest.raises(
        DataError, match=r"1 of 6 problems have no difficulty label: q3; name the column .*difficulty_c"
    ):
        known_labels(table, range(6))
    with pytest.raises(DataError, match=r"1 of 1 problems have no difficulty label: q3;"):
        known_labels(table.part(np.array([2])), range(1))


def test_the_choice_in_words() -> None:
    assert describe(data(fraction=0.5), 7) == "a random 0.5 (run.seed 7)"
    assert describe(data(keep="top:9"), 7) == "top:9 by label"
    assert describe(data(fraction=0.5, keep="top:9"), 7) == "a random 0.5 (run.seed 7), of these top:9 by label"
