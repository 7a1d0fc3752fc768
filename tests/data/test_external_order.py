"""Orders from files: every kind gives the same rows, and what does not name each problem once is refused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gainrl_ray.config import ModelConfig, PromptConfig, SourceConfig
from gainrl_ray.data.external_order import read_order
from gainrl_ray.data.problem_table import ProblemTable
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.errors import DataError
from gainrl_ray.model.loading import load_tokenizer
from gainrl_ray.storage import Storage

SHARED = Path(__file__).parents[3] / "shared" / "data"
ROWS = [3, 0, 2, 1]
IDS = ["d", "a", "c", "b"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> ProblemTable:
    """The problems a, b, c, d; a fifth row was bad and left out."""
    folder = tmp_path_factory.mktemp("problems")
    rows = [{"id": name, "problem": "1+1?", "answer": 2} for name in "abcd"]
    return _prepared(folder, [*rows, {"id": "e"}])


def _prepared(folder: Path, rows: list[dict[str, Any]]) -> ProblemTable:
    (folder / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = PromptConfig(system=None, example_question=None, example_answer=None, max_tokens=4096)
    prompts = PromptBuilder(load_tokenizer(ModelConfig()), config)
    source = SourceConfig(path=str(folder / "set.jsonl"))
    return prepare_problems(source, prompts=prompts, on_bad_row="skip", storage=Storage(str(folder / "storage")))


def _json(content: Any) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(content))


def _parquet(**columns: Any) -> Callable[[Path], object]:
    return lambda path: pq.write_table(pa.table(columns), path)


def _npy(values: Any) -> Callable[[Path], object]:
    return lambda path: np.save(path, values)


def _pt(content: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


@pytest.mark.parametrize(
    ("name", "write", "key"),
    [
        ("a.json", _json(ROWS), None),
        ("a.json", _json(IDS), None),
        ("a.json", _json({"order": IDS, "model": "x"}), "order"),
        ("a.parquet", _parquet(index=pa.array(ROWS, pa.int32())), None),
        ("a.parquet", _parquet(x=[0, 1, 2, 3], problem_id=IDS), "problem_id"),
        ("a.parquet", _parquet(index=pa.array(IDS, pa.large_string())), "index"),
        ("a.npy", _npy(np.array(ROWS, dtype=np.uint16)), None),
        ("a.npy", _npy(np.array(IDS)), None),
        ("a.pt", _pt(torch.tensor(ROWS)), None),
        ("a.pt", _pt(IDS), None),
        ("a.pt", _pt({"sorted": torch.tensor(ROWS, dtype=torch.int32)}), "sorted"),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(
    name: str, write: Callable[[Path], object], key: str | None, table: ProblemTable, tmp_path: Path
) -> None:
    write(tmp_path / name)
    for path in (str(tmp_path / name), f"file://{tmp_path / name}"):
        order = read_order(path, key, table)
        assert order.tolist() == ROWS and order.dtype == np.int64
    assert read_order(path, key, table.part(np.array([1, 2]))).tolist() == ROWS


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("never"),))


BAD: dict[str, tuple[str, Callable[[Path], object], str | None, str]] = {
    "too few": (
        "a.json",
        _json(ROWS[:3]),
        None,
        r"a\.json has 3 entries and data\.train has 4 problems \(1 rows of it",
    ),
    "too many": ("a.npy", _npy(np.arange(5)), None, r"has 5 entries and data\.train has 4.*use the order of this very"),
    "empty": ("a.json", _json([]), None, r"has 0 entries and data\.train has 4"),
    "duplicates": ("a.json", _json([0, 1, 1, 2]), None, r"1 entries that come twice: 1; accepted are"),
    "duplicate ids": ("a.json", _json(["a", "a", "a", "b"]), None, r"2 entries that come twice: 'a', 'a'"),
    "outside": ("a.npy", _npy(np.array([-1, 0, 1, 4])), None, r"2 entries that are no rows 0\.\.3 .*: -1, 4"),
    "unknown ids": ("a.json", _json(["a", "b", "c", "e"]), None, r"1 entries that are no .* problem ids .*: 'e'"),
    "fractions": ("a.npy", _npy(np.array([0.0, 1, 2, 3])), None, r"values of type double: accepted are"),
    "mixed": ("a.json", _json([0, "b", 2, 3]), None, r"no plain list"),
    "missing entry": ("a.json", _json([0, None, 2, 3]), None, r"type int64 with 1 missing"),
    "square": ("a.pt", _pt(torch.zeros(2, 2, dtype=torch.int64)), None, r"no plain list"),
    "a number": ("a.json", _json(4), None, r"no plain list"),
    "no such file": ("a.json", lambda path: None, None, r"a\.json does not exist"),
    "unknown kind": (
        "a.csv",
        lambda path: path.write_text("0"),
        None,
        r"no known kind: accepted are \.parquet, \.json",
    ),
    "broken JSON": ("a.json", lambda path: path.write_text("[0, 1"), None, r"a\.json is not JSON"),
    "broken parquet": ("a.parquet", lambda path: path.write_text("x"), None, r"a\.parquet cannot be read"),
    "broken npy": ("a.npy", lambda path: path.write_text("x"), None, r"a\.npy cannot be read"),
    "broken pt": ("a.pt", lambda path: path.write_text("x"), None, r"a\.pt cannot be loaded"),
    "cut-off pt": ("a.pt", lambda path: path.write_bytes(_cut_off(path)), None, r"a\.pt cannot be loaded"),
    "code in a pt": ("a.pt", _pt(_Hostile()), None, r"a\.pt cannot be loaded.*weights_only=True"),
    "which column": ("a.parquet", _parquet(a=ROWS, b=ROWS), None, r"columns 'a', 'b', curriculum\.key is None: set"),
    "unknown column": ("a.parquet", _parquet(a=ROWS), "b", r"columns 'a', curriculum\.key is 'b'"),
    "which key": ("a.json", _json({"a": ROWS}), None, r"mapping with the keys \['a'\], curriculum\.key is None: name"),
    "unknown key": (
        "a.pt",
        _pt({"a": torch.tensor(ROWS)}),
        "b",
        r"mapping with the keys \['a'\], curriculum\.key is 'b'",
    ),
    "key of a list": ("a.json", _json(ROWS), "a", r"a list or an array, curriculum\.key is 'a'"),
}


def _cut_off(path: Path) -> bytes:
    torch.save(torch.arange(1000), path)
    return path.read_bytes()[:-100]


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_order_of_the_problems_is_refused(
    case: str, table: ProblemTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, write, key, message = BAD[case]
    write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"(?s){message}"):
        read_order(str(tmp_path / name), key, table)
    assert not (tmp_path / "never").exists()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the released orders are not here")
def test_a_released_order_is_read_and_is_a_length_sort(tmp_path: Path) -> None:
    """GAIN-RL's order of GSM8K for Qwen2.5-0.5B-Instruct fits its 7,473 problems, and no other dataset."""
    with gzip.open(SHARED / "gsm8k_train.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    path = SHARED / "gainrl_released_orderings" / "qwen2_5_05b_Instruct__gsm8k.parquet"
    table = _prepared(tmp_path, rows)
    order = read_order(str(path), None, table)
    assert np.array_equal(np.sort(order), np.arange(7473))
    tokens = table.columns["prompt_tokens"].to_numpy()[order]
    assert tokens[:1000].mean() < tokens[3000:4000].mean() < tokens[-1000:].mean()
    with pytest.raises(DataError, match=r"has 7474 entries and data\.train has 7473 problems"):
        read_order(str(path).replace("gsm8k", "math"), None, table)
