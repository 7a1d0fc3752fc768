"""Parts of a dataset and its labels: a part is a table of its own, whose rows are 0..M-1."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gainrl_ray.config import ModelConfig, PromptConfig, SourceConfig
from gainrl_ray.data.problem_table import ProblemTable
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.errors import DataError
from gainrl_ray.model.loading import load_tokenizer
from gainrl_ray.storage import Storage

LENGTHS = [3, 1, 4, 1, 5, 9, 2, 6]  # digits of the questions


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    config = PromptConfig(system=None, example_question=None, example_answer=None, max_tokens=128)
    return PromptBuilder(load_tokenizer(ModelConfig()), config)


def prepare(folder: Path, prompts: PromptBuilder, rows: list[dict[str, Any]], **fields: Any) -> ProblemTable:
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = SourceConfig(path=str(folder / "set.jsonl"), **fields)
    return prepare_problems(config, prompts=prompts, on_bad_row="error", storage=Storage(str(folder / "storage")))


def rows_of(labels: list[Any]) -> list[dict[str, Any]]:
    return [
        {"id": f"q{k}", "problem": "9" * digits, "answer": k, "hardness": label}
        for k, (digits, label) in enumerate(zip(LENGTHS, labels, strict=True))
    ]


@pytest.fixture
def table(tmp_path: Path, prompts: PromptBuilder) -> ProblemTable:
    return prepare(tmp_path, prompts, rows_of([1, 2.5, "3", None, 5, -6, 7e1, 8]), difficulty_column="hardness")


def test_a_part_is_a_table_of_its_own(table: ProblemTable) -> None:
    part = table.part(np.array([1, 4, 5, 7]))
    for copied in (part, pickle.loads(pickle.dumps(part))):
        assert len(copied) == 4 and list(copied.rows) == [1, 4, 5, 7]
        assert list(copied.ids) == ["q1", "q4", "q5", "q7"] and copied.ids[-1] == "q7"
        assert list(pickle.loads(pickle.dumps(copied.ids))) == list(copied.ids)
        assert [copied.problem(row).answer for row in range(4)] == ["1", "4", "5", "7"]
        assert [copied.prompt(row).problem_id for row in range(4)] == list(copied.ids)
        assert copied.columns["problem_id"].to_pylist() == list(copied.ids)
        whole = table.columns["prompt_tokens"].to_pylist()
        assert copied.columns["prompt_tokens"].to_pylist() == [whole[row] for row in (1, 4, 5, 7)]
        with pytest.raises(IndexError, match=r"row 4 of a table of 4 problems"):
            copied.problem(4)
        assert (copied.digest, copied.path, len(copied.whole)) == (table.digest, table.path, 8)
        assert list(copied.whole.ids) == list(table.ids)


@pytest.mark.parametrize(("descending", "expected"), [(False, [0, 1, 3, 2]), (True, [2, 3, 1, 0])])
def test_orders_of_a_part_are_of_its_rows(table: ProblemTable, descending: bool, expected: list[int]) -> None:
    """Rows 1, 4, 5, 7 have 1, 5, 9 and 6 digits."""
    part = table.part(np.array([1, 4, 5, 7]))
    order = part.length_order(descending=descending)
    assert order.open().tolist() == expected
    assert part.length_order(descending=descending).open().tolist() == expected
    other = table.part(np.array([0, 1])).length_order(descending=False)
    assert other.open().tolist() == [1, 0] and other.name != order.name
    assert len(table.length_order(descending=descending).open()) == 8


def test_labels_are_kept_by_row_and_do_not_change_the_dataset(
    table: ProblemTable, tmp_path: Path, prompts: PromptBuilder
) -> None:
    expected = [1.0, 2.5, 3.0, np.nan, 5.0, -6.0, 70.0, 8.0]
    labels = table.labels()
    assert labels is not None and labels.dtype == np.float64
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(table.part(np.array([2, 3])).labels(), [3.0, np.nan])
    assert table.part(np.array([3])).labels() is None
    bare = prepare(tmp_path, prompts, rows_of([1] * 8))
    assert bare.labels() is None and bare.digest == table.digest


@pytest.mark.parametrize("label", ["hard", True, [1], 1e999])
def test_a_label_that_is_no_number_is_a_bad_row(label: Any, tmp_path: Path, prompts: PromptBuilder) -> None:
    with pytest.raises(DataError, match=r"set\.jsonl line 2: the difficulty in column 'hardness' is .*finite number"):
        prepare(tmp_path, prompts, rows_of([1, label, *range(6)]), difficulty_column="hardness")


def test_a_column_of_labels_that_is_not_there(tmp_path: Path, prompts: PromptBuilder) -> None:
    with pytest.raises(DataError, match=r"no column 'hardnes'; did you mean 'hardness'.*train\.difficulty_column"):
        prepare(tmp_path, prompts, rows_of([1] * 8), difficulty_column="hardnes")


def test_the_label_of_the_built_in_arithmetic_is_its_level(tmp_path: Path, prompts: PromptBuilder) -> None:
    config = SourceConfig(limit=7, min_level=2, max_level=4)
    table = prepare_problems(config, prompts=prompts, on_bad_row="error", storage=Storage(str(tmp_path)))
    np.testing.assert_array_equal(table.labels(), [2, 3, 4, 2, 3, 4, 2])
