"""Datasets: every row is kept or named with its place and reason, whatever the file's form."""

import gzip
import itertools
import json
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench import Bench, contents

from gainrl_ray.config import ModelConfig, PromptConfig
from gainrl_ray.data import files, problem_columns, problem_table, problems
from gainrl_ray.data.arithmetic import generate
from gainrl_ray.data.checks import SeenIds
from gainrl_ray.data.problems import ProblemTable
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.errors import DataError
from gainrl_ray.model.loading import load_tokenizer
from gainrl_ray.storage import Storage
from gainrl_ray.types import Problem

SHARED = Path(__file__).parents[3] / "shared" / "data"
ROWS = [{"id": f"q{k}", "problem": f"What is {k}+1?", "answer": str(k + 1)} for k in range(5)]


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    config = PromptConfig(system=None, example_question=None, example_answer=None, max_tokens=128)
    return PromptBuilder(load_tokenizer(ModelConfig()), config)


@pytest.fixture
def bench(tmp_path: Path, prompts: PromptBuilder) -> Bench:
    return Bench(tmp_path, prompts)


EXPECTED = [(row["id"], row["problem"], row["answer"]) for row in ROWS]


def as_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def as_json(path: Path) -> None:
    path.write_text("\ufeff" + json.dumps(ROWS, indent=1))


def as_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize(
    ("name", "write"), [("a.jsonl", as_jsonl), ("a.json", as_json), ("b.json", as_jsonl), ("a.parquet", as_parquet)]
)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_form_of_file_gives_the_same_problems(bench: Bench, name: str, write: Any, zipped: bool) -> None:
    path = bench.folder / name
    write(path)
    if zipped:
        packed = bench.folder / f"{name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    table = bench.prepare(path)
    assert contents(table) == EXPECTED
    assert table.problem(2) == Problem(id="q2", question="What is 2+1?", answer="3", source=path.name)
    assert str(table.report) == f"5 problems of {path}"


def test_a_folder_is_read_in_the_order_of_names(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    folder = bench.folder / "data"
    (folder / "sub").mkdir(parents=True)
    for name, row in (("b.jsonl", ROWS[1]), ("a.jsonl", ROWS[0]), ("sub/c.jsonl", ROWS[2])):
        (folder / name).write_text(json.dumps(row))
    (folder / "README.md").write_text("")
    (folder / "notes.txt").write_text("")
    (folder / ".hidden.jsonl").write_text("{")
    table = bench.prepare(folder)
    assert list(table.ids) == ["q0", "q1", "q2"]
    assert table.problem(2).source == "sub/c.jsonl"
    assert "2 files are of no split: .hidden.jsonl, notes.txt" in caplog.text


def test_a_uri_is_read_like_a_path(bench: Bench) -> None:
    path = bench.lines(*ROWS)
    assert contents(bench.prepare(f"file://{path}")) == EXPECTED


def test_the_built_in_set(bench: Bench) -> None:
    table = bench.prepare("arithmetic", split="heldout", limit=30, min_level=2, max_level=4)
    expected = generate("heldout", 30, min_level=2, max_level=4)
    assert [table.problem(row) for row in range(30)] == [item.problem for item in expected]
    assert len(bench.prepare("arithmetic")) == 2000
    with pytest.raises(DataError, match="unknown split 'test' of arithmetic"):
        bench.prepare("arithmetic", split="test")


def test_columns_are_mapped(bench: Bench) -> None:
    path = bench.lines(
        {"key": 7, "q": " How many? ", "sol": "3*4 = 12\n#### 1,2 "}, {"key": "k", "q": "?", "sol": "#### 5"}
    )
    columns = {"id_column": "key", "question_column": "q", "answer_column": "sol"}
    table = bench.prepare(path, **columns, answer_pattern=r"####\s*(.+)")
    assert contents(table) == [("7", "How many?", "1,2"), ("k", "?", "5")]


def test_numbers_are_answers(bench: Bench) -> None:
    answers = [3, -2.5, "1/2", 10**400]
    path = bench.lines(*({"problem": "?", "answer": answer} for answer in answers))
    assert [answer for _, _, answer in contents(bench.prepare(path))] == ["3", "-2.5", "1/2", str(10**400)]
    table = pa.table({"problem": ["?", "?"], "answer": [Decimal("2.50"), Decimal("4.00")]})
    pq.write_table(table, bench.folder / "d.parquet")
    assert [answer for _, _, answer in contents(bench.prepare(bench.folder / "d.parquet"))] == ["2.50", "4.00"]


def test_ids_default_to_file_and_line(bench: Bench) -> None:
    path = bench.lines({"problem": "a", "answer": "1"}, "", {"problem": "b", "answer": "1", "id": "own"})
    assert list(bench.prepare(path).ids) == ["set.jsonl:1", "own"]
    (bench.folder / "one_line.json").write_text(
        json.dumps([{"problem": "a", "answer": 1}, {"problem": "b", "answer": 1}])
    )
    assert list(bench.prepare(bench.folder / "one_line.json").ids) == ["one_line.json:1", "one_line.json:2"]


BAD_LINES: list[tuple[object, str, str]] = [
    ({"answer": "1"}, "missing question", "no question in column 'problem'"),
    ({"problem": None, "answer": "1"}, "missing question", "no question in column 'problem'"),
    ({"problem": " \n", "answer": "1"}, "empty question", "the question in column 'problem' is empty"),
    ({"problem": "a"}, "missing answer", "no answer in column 'answer'"),
    ({"problem": "a", "answer": ""}, "empty answer", "the answer in column 'answer' is empty"),
    ({"problem": 5, "answer": "1"}, "question of wrong type", "of type int, not text"),
    ({"problem": ["a"], "answer": "1"}, "question of wrong type", "of type list, not text"),
    ({"problem": "a", "answer": ["1"]}, "answer of wrong type", "of type list, not text or a number"),
    ({"problem": "a", "answer": {"x": 1}}, "answer of wrong type", "of type dict"),
    ({"problem": "a", "answer": True}, "answer of wrong type", "of type bool"),
    ('{"problem": "a", "answer": NaN}', "answer of wrong type", "is nan, not finite"),
    ({"id": [1], "problem": "a", "answer": "1"}, "id of wrong type", "of type list"),
    ({"id": "", "problem": "a", "answer": "1"}, "empty id", "the id in column 'id' is empty"),
    (b'{"problem": "\xff", "answer": "1"}', "not UTF-8", "byte 13 of the line is not UTF-8"),
    ('{"problem": "\\ud800", "answer": "1"}', "not UTF-8", "half a surrogate pair"),
    ('{"problem": "a", "answer"', "invalid JSON", "the line is not JSON"),
    ('{"problem": "a", "answer": ' + "1" * 5000 + "}", "invalid JSON", "Exceeds the limit"),
    ("[" * 100000, "invalid JSON", "recursion"),
    ("[1, 2]", "not a JSON object", "the line is a JSON list"),
    ({"id": "q0", "problem": "b", "answer": "1"}, "duplicate id", "the id 'q0' stands in an earlier row"),
    ({"problem": "a" * 500, "answer": "1"}, "over-long prompt", "tokens, data.prompt.max_tokens is 128"),
    ({"problem": "a<|im_end|>\nb", "answer": "1"}, "special token", "the special token '<|im_end|>'"),
]


@pytest.mark.parametrize(
    ("line", "reason", "detail"), BAD_LINES, ids=[f"{k}-{bad[1]}" for k, bad in enumerate(BAD_LINES)]
)
def test_a_bad_row_is_named(bench: Bench, line: object, reason: str, detail: str) -> None:
    path = bench.lines(ROWS[0], line, ROWS[1])
    with pytest.raises(DataError) as caught:
        bench.prepare(path)
    message = str(caught.value)
    assert f"1 of 3 rows of {path} cannot be used (1 {reason}):" in message
    assert "\n  set.jsonl line 2: " in message and detail in message
    assert "data.on_bad_row=skip" in message

    table = bench.prepare(path, on_bad_row="skip")
    assert contents(table) == EXPECTED[:2]
    report = table.report
    assert (report.rows_read, report.kept, report.bad) == (3, 2, {reason: 1})
    (listed,) = bench.bad_rows(table)
    assert listed["place"] == "set.jsonl line 2" and listed["reason"] == reason and detail in listed["detail"]


def test_all_bad_rows_are_counted_and_some_shown(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    lines = [bad for bad, _, _ in BAD_LINES]
    path = bench.lines(ROWS[0], *lines, *ROWS[1:])
    with pytest.raises(DataError) as caught:
        bench.prepare(path)
    message = str(caught.value)
    assert f"{len(lines)} of {len(lines) + 5} rows" in message
    assert message.count("\n  set.jsonl line ") == 5
    assert "4 answer of wrong type" in message
    table = bench.prepare(path, on_bad_row="skip")
    assert contents(table) == EXPECTED
    assert sum(table.report.bad.values()) == len(lines) == len(bench.bad_rows(table))
    assert table.report.rows_read == table.report.kept + len(lines)
    assert f"5 of {len(lines) + 5} rows" in caplog.text


def test_an_answer_that_the_pattern_does_not_find(bench: Bench) -> None:
    path = bench.lines(
        {"problem": "a", "answer": "no mark"}, {"problem": "b", "answer": "#### "}, {"problem": "c", "answer": "####2"}
    )
    table = bench.prepare(path, on_bad_row="skip", answer_pattern=r"####(.*)")
    assert [answer for _, _, answer in contents(table)] == ["2"]
    assert table.report.bad == {"answer not found": 2}


def test_bad_rows_of_parquet(bench: Bench) -> None:
    broken = pa.array([b"ok", b"\xff\xfe", b"fine"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"problem": broken, "answer": ["1", "2", None]}), bench.folder / "p.parquet")
    table = bench.prepare(bench.folder / "p.parquet", on_bad_row="skip")
    assert contents(table) == [("p.parquet:1", "ok", "1")]
    assert [(bad["place"], bad["reason"]) for bad in bench.bad_rows(table)] == [
        ("p.parquet row 2", "not UTF-8"),
        ("p.parquet row 3", "missing answer"),
    ]


def test_an_unknown_column_names_the_nearest(bench: Bench) -> None:
    path = bench.lines(*ROWS)
    with pytest.raises(DataError, match=r"no column 'problm'; did you mean 'problem'\? .*data\.train\.question_column"):
        bench.prepare(path, question_column="problm")
    with pytest.raises(DataError, match=r"no column 'uid'; did you mean 'id'"):
        bench.prepare(path, id_column="uid")
    as_parquet(bench.folder / "a.parquet")
    with pytest.raises(
        DataError, match=r"a\.parquet has no column 'solution'; its columns are 'id', 'problem', 'answer'"
    ):
        bench.prepare(bench.folder / "a.parquet", answer_column="solution")


def test_a_column_may_be_missing_in_the_first_row(bench: Bench) -> None:
    table = bench.prepare(bench.lines({"problem": "a"}, *ROWS), on_bad_row="skip")
    assert table.report.bad == {"missing answer": 1}


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.jsonl.gz", gzip.compress(b'{"problem": "a", "answer": "1"}\n' * 999)[:-20], r"a\.jsonl\.gz cannot be read"),
        ("a.jsonl.gz", b"not gzip", r"a\.jsonl\.gz cannot be read to its end \(BadGzipFile"),
        ("a.parquet", b"not parquet", r"a\.parquet cannot be read to its end \(ArrowInvalid"),
        ("a.json", b'[{"problem": "a"}, {"problem"', r"a\.json row 2: the array is not JSON"),
        ("a.json", b'[{"problem": "a"} {"problem": "b"}]', r"a\.json: no ',' or '\]' after row 1"),
        ("a.json", b'[{"problem": "a"}', r"a\.json: no ',' or '\]' after row 1"),
        ("a.json", b'[{"problem": "a"}]\n[{"problem": "b"}]', r"a\.json: text after the array, which has 1 rows"),
        ("a.json", b'[\n"\xff"]', r"a\.json line 2: byte 3 of the file is not UTF-8"),
        ("a.xlsx", b"problem,answer", r"'.*a\.xlsx' is of no known kind: accepted are \.jsonl"),
        ("a.jsonl", b"", r"a\.jsonl holds no rows"),
        ("a.json", b"[]", r"a\.json holds no rows"),
    ],
)
def test_broken_files_stop_the_run(bench: Bench, name: str, content: bytes, match: str) -> None:
    (bench.folder / name).write_bytes(content)
    for on_bad_row in ("error", "skip"):
        with pytest.raises(DataError, match=match):
            bench.prepare(bench.folder / name, on_bad_row=on_bad_row)


def test_no_usable_row_stops_the_run_even_when_skipping(bench: Bench) -> None:
    with pytest.raises(DataError, match=r"(?s)2 of 2 rows .*2 invalid JSON.*mend them$"):
        bench.prepare(bench.lines("x", "y"), on_bad_row="skip")


def test_paths_that_lead_nowhere(bench: Bench) -> None:
    for path in (bench.folder / "no.jsonl", "./nothing", "a/b/c", "train.parquet"):
        with pytest.raises(DataError, match="does not exist"):
            bench.prepare(path)
    (bench.folder / "empty").mkdir()
    with pytest.raises(DataError, match="holds no data file"):
        bench.prepare(bench.folder / "empty")


def test_a_hub_dataset(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, subset: str | None, *, split: str) -> datasets.Dataset:
        asked.append((path, subset, split))
        return datasets.Dataset.from_list([{**row, "level": 3} for row in ROWS])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = bench.prepare("openai/gsm8k", subset="main", split="train")
    assert contents(table) == EXPECTED
    assert table.problem(0).source == "openai/gsm8k:train"
    assert set(asked) == {("openai/gsm8k", "main", "train")}
    with pytest.raises(DataError, match=r"openai/gsm8k:train has no column 'solution'; its columns are .*'level'"):
        bench.prepare("openai/gsm8k", answer_column="solution")


def test_a_hub_dataset_out_of_reach(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'nobody/nothing' is no file or folder here, and as a hub dataset .*HF_TOKEN"):
        bench.prepare("nobody/nothing")


def test_the_same_inputs_are_checked_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bench.lines(*ROWS)
    first = bench.prepare(path)
    with monkeypatch.context() as patch:
        patch.setattr(problems, "_canonicalise", lambda *_: pytest.fail("checked again"))
        assert bench.prepare(path).path == first.path
    copied = bench.folder / "copy" / path.name
    copied.parent.mkdir()
    copied.write_bytes(path.read_bytes())
    same = bench.prepare(copied)
    assert same.path == first.path and same.report.path == str(copied)
    others = [bench.prepare(path, limit=3)]
    longer = PromptBuilder(load_tokenizer(ModelConfig()), PromptConfig(max_tokens=200))
    others.append(Bench(bench.folder, longer).prepare(path))
    bench.lines(*ROWS[::-1])
    others.append(bench.prepare(path))
    assert len({first.path, *(table.path for table in others)}) == 4


def test_the_digest_is_of_content_and_order(bench: Bench) -> None:
    """Defect 9: the same rows in another order are another dataset, so that no index of the one fits the other."""
    first = bench.prepare(bench.lines(*ROWS))
    as_parquet(bench.folder / "set.parquet")
    assert bench.prepare(bench.lines({**ROWS[0], "level": 1}, *ROWS[1:])).digest == first.digest
    assert bench.prepare(bench.lines(*ROWS[::-1])).digest != first.digest
    assert bench.prepare(bench.lines(*ROWS[:4])).digest != first.digest
    assert bench.prepare(bench.lines({**ROWS[0], "answer": "2"}, *ROWS[1:])).digest != first.digest


def test_the_canonical_parquet(bench: Bench) -> None:
    table = bench.prepare(bench.lines(*ROWS))
    stored = pq.read_table(table.path)
    names = ["row", "problem_id", "question", "answer", "source", "prompt_tokens", "difficulty", "turns"]
    assert stored.column_names == names
    assert stored["row"].to_pylist() == [0, 1, 2, 3, 4]
    expected = [len(bench.prompts.build(table.problem(row)).token_ids) for row in range(5)]
    assert table.columns["prompt_tokens"].to_pylist() == stored["prompt_tokens"].to_pylist() == expected
    assert table.columns["problem_id"].to_pylist() == [row["id"] for row in ROWS]
    assert not (Path(table.path).parent / "bad_rows.jsonl").exists()


def test_a_table_gives_problems_prompts_and_ids(bench: Bench) -> None:
    table = bench.prepare(bench.lines(*ROWS))
    assert table.prompt(3) == bench.prompts.build(table.problem(3))
    assert list(table.ids) == [row["id"] for row in ROWS]
    assert table.ids[np.int64(2)] == "q2" and table.ids[1:3] == ["q1", "q2"] and table.ids[-1] == "q4"
    assert table.problem(int(np.int64(2))).id == "q2"
    for row in (-1, 5):
        with pytest.raises(IndexError, match=r"table of 5 problems: use 0\.\.4"):
            table.problem(row)


def test_ids_cross_processes_as_a_path(bench: Bench) -> None:
    table = bench.prepare(bench.lines(*({"id": "x" * 50 + str(k), "problem": "1+1", "answer": 2} for k in range(200))))
    sent = pickle.dumps(table.ids)
    assert len(sent) < 1000
    assert list(pickle.loads(sent)) == list(table.ids) == ["x" * 50 + str(k) for k in range(200)]


@pytest.mark.parametrize("descending", [False, True])
def test_the_length_order_is_kept_beside_the_problems(
    bench: Bench, descending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a sort of Python's, with ids whose order is not the rows'; the second call reads what the first made."""
    rows = [{"id": f"q{(7 * k) % 30}", "problem": "9" * (k % 4 + 1), "answer": 1} for k in range(30)]
    table = bench.prepare(bench.lines(*rows))
    lengths = [len(table.prompt(row).token_ids) for row in range(30)]
    sign = -1 if descending else 1
    expected = sorted(range(30), key=lambda row: (sign * lengths[row], table.ids[row]))
    assert len(set(lengths)) > 1
    assert table.length_order(descending=descending).open().tolist() == expected
    monkeypatch.delattr(problem_table, "sorted_places")
    assert table.length_order(descending=descending).open().tolist() == expected


def test_another_process_opens_the_table_without_the_sources(bench: Bench) -> None:
    path = bench.lines(*ROWS, {"problem": "x"})
    table = bench.prepare(path, on_bad_row="skip")
    path.unlink()
    for copied in (
        pickle.loads(pickle.dumps(table)),
        ProblemTable.open(Storage(str(Path(table.path).parent)), bench.prompts),
    ):
        assert contents(copied) == EXPECTED
        assert copied.prompt(1) == table.prompt(1)
        assert (copied.digest, copied.report) == (table.digest, table.report)


def test_broken_prepared_folders_are_refused(bench: Bench) -> None:
    table = bench.prepare(bench.lines(*ROWS))
    folder = Storage(str(Path(table.path).parent))
    report = folder.read_text("report.json")
    for broken in ("{", "[]", "{}", report.replace("kept", "left")):
        folder.write_text("report.json", broken)
        with pytest.raises(DataError, match=r"report\.json is not a report of this version: delete"):
            bench.prepare(bench.folder / "set.jsonl")
    folder.write_text("report.json", report.replace('"kept": 5', '"kept": 6'))
    with pytest.raises(DataError, match="has 5 rows, its report says 6: delete"):
        bench.prepare(bench.folder / "set.jsonl")


def test_many_chunks_make_one_table(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are checked three at a time; places, ids and bad rows do not depend on it."""
    lines: list[dict[str, Any]] = [{"id": f"q{k}", "problem": f"Is it {k}?", "answer": k} for k in range(50)]
    lines[4]["answer"], lines[20]["id"] = "", "q3"
    path = bench.lines(*lines)
    whole = bench.prepare(path, on_bad_row="skip")
    monkeypatch.setattr(problems, "_CHUNK_ROWS", 3)
    monkeypatch.setattr(problem_table, "_CACHED_GROUPS", 2)
    monkeypatch.setattr(files, "_HEAD_ROWS", 4)
    monkeypatch.setattr(problem_columns, "_BATCH_ROWS", 7)
    pieces = Bench(bench.folder / "again", bench.prompts).prepare(path, on_bad_row="skip")
    order = np.random.default_rng(0).permutation(48)
    assert [pieces.problem(int(row)) for row in order] == [whole.problem(int(row)) for row in order]
    assert list(pieces.ids) == [pieces.problem(row).id for row in range(48)] == list(whole.ids)
    assert pieces.columns["problem_id"].num_chunks > 5 > whole.columns["problem_id"].num_chunks
    assert pieces.digest == whole.digest
    assert pieces.report.bad == whole.report.bad == {"empty answer": 1, "duplicate id": 1}
    assert [bad["place"] for bad in bench.bad_rows(pieces)] == ["set.jsonl line 5", "set.jsonl line 21"]


def test_limit_takes_the_first_rows_bad_ones_included(bench: Bench) -> None:
    table = bench.prepare(bench.lines(ROWS[0], "bad", *ROWS[1:]), on_bad_row="skip", limit=3)
    assert contents(table) == EXPECTED[:2]
    assert table.report.rows_read == 3


def test_seen_ids_over_many_calls() -> None:
    seen, known = SeenIds(), set()
    rng = np.random.default_rng(1)
    for _ in range(60):
        ids = [f"id{number}" for number in rng.integers(0, 2000, int(rng.integers(0, 40)))]
        expected = []
        for text in ids:
            expected.append(text in known)
            known.add(text)
        assert seen.add(ids) == expected


def test_a_run_never_holds_all_rows(bench: Bench) -> None:
    """The source is read as the table is written: the reader is never more than a chunk and the head ahead."""
    ahead = []
    written = [0]
    checked = problems._checked

    class Counting:
        def digest(self) -> str:
            return "counting"

        def rows(self) -> Any:
            for number in range(5000):
                ahead.append(number - written[0])
                yield problems.RawRow(source="s", number=number, values={"problem": "a", "answer": "1"})

    def counted(rows: Any, *rest: Any) -> Any:
        written[0] += len(rows)
        return checked(rows, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problems, "_checked", counted)
        patch.setattr(problems, "open_source", lambda config: Counting())
        assert len(bench.prepare("counted")) == 5000
    assert max(ahead) < 1024


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_the_two_rows_of_math_without_an_answer(bench: Bench) -> None:
    """Defect 11: rows without a usable answer are not trained on. Lines 5329 and 5331 of the file, 29 and 31 here."""
    with gzip.open(SHARED / "math_train_gainrl.jsonl.gz") as file:
        path = bench.folder / "math.jsonl.gz"
        path.write_bytes(gzip.compress(b"".join(itertools.islice(file, 5300, 5340))))
    config = PromptConfig(system=None, example_question=None, example_answer=None, max_tokens=8192)
    bench = Bench(bench.folder, PromptBuilder(load_tokenizer(ModelConfig()), config))
    with pytest.raises(DataError) as caught:
        bench.prepare(path)
    message = str(caught.value)
    assert "2 of 40 rows" in message and "(2 empty answer)" in message
    assert "math.jsonl.gz line 29: the answer in column 'answer' is empty" in message
    assert "math.jsonl.gz line 31: " in message
    table = bench.prepare(path, on_bad_row="skip")
    assert (len(table), table.report.rows_read) == (38, 40)
