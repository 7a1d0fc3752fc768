"""Data as people have them: splits, subsets, text files of all layouts, nested and chat columns, doubtful ids."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench import Bench, contents

from gainrl_ray.actors.measures import AngleMeasure, build_prompts
from gainrl_ray.cli import load_config
from gainrl_ray.config import DataConfig, HeldoutConfig, ModelConfig, PromptConfig, SourceConfig
from gainrl_ray.data.overlap import check_heldout_is_named, overlap
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.errors import ConfigError, DataError
from gainrl_ray.model.loading import load_tokenizer

PRESETS = Path(__file__).parents[2] / "jobs" / "configs"
SUBSETS = """---
configs:
- config_name: main
  data_files: [{split: train, path: main/train-*}, {split: test, path: main/test-*}]
- config_name: socratic
  data_files: [{split: train, path: socratic/train-*}]
---
About.
"""


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    config = PromptConfig(system="Be exact.", example_question=None, example_answer=None, max_tokens=128)
    return PromptBuilder(load_tokenizer(ModelConfig()), config)


@pytest.fixture
def bench(tmp_path: Path, prompts: PromptBuilder) -> Bench:
    return Bench(tmp_path, prompts)


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"problem": f"What is {number}+1?", "answer": str(number + 1)} | more


def folder_of(base: Path, **files: list[int]) -> Path:
    """A folder of JSON lines: file name, `__` for a slash and `_` for a dot -> numbers of its rows."""
    for name, numbers in files.items():
        path = base / (name.replace("__", "/").replace("_", ".") + ".jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row(number)) + "\n" for number in numbers))
    return base


def answers(table: Any) -> list[str]:
    return [answer for _, _, answer in contents(table)]


def heldout(bench: Bench, path: Path, **fields: Any) -> Any:
    config = HeldoutConfig(path=str(path), **fields)
    return prepare_problems(config, prompts=bench.prompts, on_bad_row="error", storage=bench.storage)


@pytest.mark.parametrize("name", ["data", "a b", "a=b", "a#b", "a%20b", "a?b", "[a]*", "row=a"])
def test_a_split_of_a_folder(bench: Bench, name: str) -> None:
    """Whatever stands in the path, which `datasets` would take for a pattern."""
    folder = folder_of(bench.folder / name, train=[1, 2, 3], test=[7])
    assert answers(bench.prepare(folder)) == answers(bench.prepare(folder, split="train")) == ["2", "3", "4"]
    assert answers(heldout(bench, folder)) == answers(bench.prepare(folder, split="test")) == ["8"]
    assert answers(bench.prepare(folder / "train.jsonl", split="train")) == ["2", "3", "4"]
    with pytest.raises(DataError, match=r"has no split 'nonsense'; it has 'train', 'test': set data\.train\.split"):
        bench.prepare(folder, split="nonsense")
    with pytest.raises(DataError, match=r"subset 'main'\) is no dataset: .*'main' not found"):
        bench.prepare(folder, subset="main")


def test_the_usual_held_out_splits(bench: Bench) -> None:
    folder = folder_of(bench.folder / "data", train=[1], validation=[5])
    assert answers(heldout(bench, folder)) == ["6"]
    assert answers(heldout(bench, folder_of(bench.folder / "whole", part_1=[1], part_2=[2]))) == ["2", "3"]
    with pytest.raises(DataError, match=r"has no split 'train'; it has 'test'"):
        bench.prepare(folder_of(bench.folder / "only", test=[1]))
    with pytest.raises(DataError, match=r"no split 'heldout' or 'test' or 'validation'; it has 'train', 'x'"):
        heldout(bench, saved(bench.folder / "odd", train=[1], x=[2]))


def test_what_a_file_or_the_built_in_set_has_not_is_refused(bench: Bench) -> None:
    path = bench.lines(row(1))
    with pytest.raises(DataError, match=r"file '.*set\.jsonl' has no split 'test'; it has 'train': .* or to null"):
        bench.prepare(path, split="test")
    for source in (path, "arithmetic"):
        with pytest.raises(DataError, match=r"subset 'main' of '.*', which has none: leave subset out \(null\)"):
            bench.prepare(source, subset="main")


def test_a_cloned_hub_dataset(bench: Bench) -> None:
    files = {"main__train-0": [1], "main__test-0": [2], "socratic__train-0": [3]}
    folder = folder_of(bench.folder / "gsm8k", **files)
    with pytest.raises(DataError, match=r"train files in main, socratic, and no README\.md .*give the path of one"):
        bench.prepare(folder)
    assert answers(bench.prepare(folder / "socratic")) == ["4"]
    (folder / "README.md").write_text(SUBSETS)
    table = bench.prepare(folder, subset="main")
    assert contents(table) == [("main/train-0.jsonl:1", "What is 1+1?", "2")]
    assert answers(heldout(bench, folder, subset="main")) == ["3"]
    assert answers(bench.prepare(folder, subset="socratic")) == ["4"]
    with pytest.raises(DataError, match=r"pick one among the available configs: \['main', 'socratic'\]"):
        bench.prepare(folder)
    with pytest.raises(DataError, match=r"'mian' not found. Available: \['main', 'socratic'\]"):
        bench.prepare(folder, subset="mian")


def test_a_folder_behind_a_uri_has_splits_too(bench: Bench) -> None:
    folder = folder_of(bench.folder / "data", train=[1, 2], test=[7])
    assert answers(bench.prepare(f"file://{folder}", split="test")) == ["8"]


def test_the_split_of_a_hub_dataset(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, subset: str | None, *, split: str) -> datasets.Dataset:
        return datasets.Dataset.from_list([VERL | {"extra_info": {"split": split, "index": 41, "question": "1+1?"}}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda path, subset: ["train", "validation"])
    fields = {"question_column": "extra_info.split"}
    assert contents(bench.prepare("a/b", **fields)) == [("a/b:train:1", "train", "2")]
    assert contents(heldout(bench, Path("a/b"), **fields)) == [("a/b:validation:1", "validation", "2")]
    assert contents(heldout(bench, Path("a/b"))) == [("a/b:validation:1", "What is 1+1?", "2")]


def test_kinds_of_files_that_do_not_fit_are_refused(bench: Bench) -> None:
    folder = folder_of(bench.folder / "data", test=[7])
    (folder / "train.csv").write_text("problem,answer\na,1\n")
    with pytest.raises(DataError, match=r"is no dataset: Couldn't infer the same data file format for all splits"):
        bench.prepare(folder)


def test_links_that_lead_back_are_refused(bench: Bench) -> None:
    folder = folder_of(bench.folder / "data", a=[1], sub__b=[2])
    (folder / "sub" / "loop").symlink_to("..")
    with pytest.raises(DataError, match=r"sub/loop leads to .*data, whose rows would be read again: remove the link"):
        bench.prepare(folder)
    (folder / "sub" / "loop").unlink()
    os.symlink(folder_of(bench.folder / "elsewhere", c=[3]), folder / "linked")
    assert answers(bench.prepare(folder)) == ["2", "4", "3"]


def saved(path: Path, **splits: list[int]) -> Path:
    datasets.DatasetDict(
        {name: datasets.Dataset.from_list([row(number) for number in numbers]) for name, numbers in splits.items()}
    ).save_to_disk(path)
    return path


def test_a_saved_dataset(bench: Bench) -> None:
    datasets.Dataset.from_list([row(1), row(2)]).save_to_disk(bench.folder / "one")
    assert contents(bench.prepare(bench.folder / "one")) == [
        ("one:1", "What is 1+1?", "2"),
        ("one:2", "What is 2+1?", "3"),
    ]
    with pytest.raises(DataError, match=r"no split 'test'; it has 'train'"):
        bench.prepare(bench.folder / "one", split="test")
    several = saved(bench.folder / "several", train=[1], test=[5])
    assert contents(bench.prepare(several)) == [("several/train:1", "What is 1+1?", "2")]
    assert answers(heldout(bench, several)) == ["6"]
    (several / "train" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"the save_to_disk folder '.*several' does not load"):
        bench.prepare(several)


CSV = 'id,problem,answer\r\na,"What, exactly, is\n1+1?",2\r\n\r\nb,"Say ""3""",3\r\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", CSV),
        ("t.csv", "\ufeff" + CSV),
        ("t.csv", CSV.replace(",", ";").replace("What; exactly;", "What, exactly,")),
        ("t.tsv", CSV.replace(",", "\t").replace("What\t exactly\t", "What, exactly,")),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_separated_values(bench: Bench, name: str, text: str, zipped: bool) -> None:
    path = bench.folder / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    assert contents(bench.prepare(path)) == [("a", "What, exactly, is\n1+1?", "2"), ("b", 'Say "3"', "3")]


def test_bad_separated_values(bench: Bench) -> None:
    path = bench.folder / "t.csv"
    path.write_text("problem,answer\na,1\nb,1,2\nc\n,4\n")
    table = bench.prepare(path, on_bad_row="skip")
    assert contents(table) == [("t.csv:1", "a", "1")]
    assert table.report.bad == {"wrong number of cells": 2, "empty question": 1}
    assert "t.csv row 2: the row has 3 cells, the first line 2: quote text with ','" in table.report.examples
    for content, match in (
        (b'problem,answer\n"a,1\n', r"t\.csv line 2: .*mend the quotes"),
        (b"problem,answer\na,\xff\n", r"t\.csv near line \d+ is not UTF-8 .*convert"),
        (b"", r"holds no rows"),
        (
            b"question_text,answer\na,1\n",
            r"no column that holds the question \(.*looks for problem",
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=match):
            bench.prepare(path)


TWO = [row(1), row(2)]
LAYOUTS = {
    "an array on one line": json.dumps(TWO),
    "an array over lines": json.dumps(TWO, indent=2),
    "an array in an object": json.dumps({"version": 2, "data": TWO}),
    "an array in an object over lines": json.dumps({"data": TWO}, indent=2),
    "an object over lines each": "\n".join(json.dumps(item, indent=2) for item in TWO),
    "lines": "\n".join(map(json.dumps, TWO)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["t.json", "t.jsonl"])
@pytest.mark.parametrize("form", ["plain", "byte order mark", "Windows line ends", "leading lines"])
def test_layouts_of_json(bench: Bench, layout: str, name: str, form: str) -> None:
    text = LAYOUTS[layout]
    changes = {"byte order mark": "\ufeff" + text, "Windows line ends": text.replace("\n", "\r\n") + "\r\n"}
    changes["leading lines"] = "\n\n" + text + "\n\n"
    path = bench.folder / name
    path.write_bytes(changes.get(form, text).encode())
    assert answers(bench.prepare(path)) == ["2", "3"]


def test_objects_that_are_no_rows(bench: Bench) -> None:
    columns = {"problem": ["a", "b"], "answer": ["1", "2"]}
    for text in (json.dumps(columns), json.dumps(columns, indent=1)):
        (bench.folder / "t.json").write_text(text)
        with pytest.raises(DataError, match=r"t\.json is one object of lists or mappings \('problem', 'answer'\), not"):
            bench.prepare(bench.folder / "t.json")
    assert answers(bench.prepare(bench.lines(row(1)))) == ["2"]
    path = bench.lines('{"problem": "a",', row(1), row(2))  # its first line is broken, and it is no document
    assert answers(bench.prepare(path, on_bad_row="skip")) == ["2", "3"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["t.jsonl", "t.csv"])
def test_utf16_is_named(bench: Bench, encoding: str, name: str) -> None:
    (bench.folder / name).write_text("problem,answer\na,1\n" if name == "t.csv" else json.dumps(row(1)), encoding)
    with pytest.raises(DataError, match=r"^t\.\w+ is UTF-16 or UTF-32 text, accepted is UTF-8: convert it.*iconv"):
        bench.prepare(bench.folder / name)


VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "user", "content": "What is 1+1?"}],
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"split": "train", "index": 41, "question": "1+1?"},
}


@pytest.mark.parametrize("name", ["v.parquet", "v.jsonl"])
def test_verl_files(bench: Bench, name: str) -> None:
    if name == "v.jsonl":
        path = bench.lines(VERL, name=name)
    else:
        pq.write_table(pa.Table.from_pylist([VERL]), path := bench.folder / name)
    for fields in (
        {},
        {"format": "verl"},
        {"question_column": "prompt", "answer_column": "reward_model.ground_truth"},
    ):
        assert contents(bench.prepare(path, **fields)) == [(f"{name}:1", "What is 1+1?", "2")]
    assert contents(bench.prepare(path, question_column="extra_info.question", id_column="extra_info.index")) == [
        ("41", "1+1?", "2")
    ]
    assert str(bench.prepare(path).report) == (
        f"1 problems of {path} (question from column 'prompt'; answer from column 'reward_model.ground_truth')"
    )
    with pytest.raises(DataError, match=r"no column 'extra_info\.indx'; did you mean 'extra_info\.index'"):
        bench.prepare(path, id_column="extra_info.indx")


def test_a_column_s_own_dots_come_first(bench: Bench) -> None:
    path = bench.lines({"a.b": "flat?", "a": {"b": "nested?"}, "answer": 1})
    assert contents(bench.prepare(path, question_column="a.b"))[0][1] == "flat?"


@pytest.mark.parametrize(
    ("format", "columns", "answer", "label"),
    [
        ("gsm8k", {"question": "q?", "answer": "1+1 = <<1+1=2>>2\r\n#### 2 "}, "2", None),
        (
            "math",
            {"problem": "q?", "solution": "so \\boxed{2}", "level": "Level 5", "type": "Algebra"},
            "so \\boxed{2}",
            5,
        ),
        ("math", {"problem": "q?", "solution": "1+1", "answer": "2", "level": 3}, "2", 3),
        ("math", {"problem": "q?", "answer": "2", "level": "Level ?"}, "2", None),
        ("trl", {"prompt": "q?", "solution": "2"}, "2", None),
        ("auto", {"question": "q?", "answer": "#### 1,234"}, "1,234", None),
        ("auto", {"problem": "q?", "ground_truth": "2", "solution": "long"}, "2", None),
    ],
)
def test_formats(bench: Bench, format: str, columns: dict[str, Any], answer: str, label: float | None) -> None:
    table = bench.prepare(bench.lines(columns), format=format)
    assert contents(table) == [("set.jsonl:1", "q?", answer)]
    labels = table.labels()
    assert (None if labels is None else labels.tolist()) == (None if label is None else [label])


def test_a_format_s_columns_must_be_there(bench: Bench) -> None:
    path = bench.lines(row(1))
    with pytest.raises(DataError, match=r"no column that holds the question \(.*format=trl looks for prompt, "):
        bench.prepare(path, format="trl")
    assert answers(bench.prepare(path, format="trl", question_column="problem")) == ["2"]


def test_answers_behind_marks_are_found_on_the_last_line_only(bench: Bench) -> None:
    texts = ["a\n#### 5", "#### 5\nand more", "no #### mark", "####"]
    path = bench.lines(*({"problem": f"{k}?", "answer": text} for k, text in enumerate(texts)))
    table = bench.prepare(path)
    assert answers(table) == ["5", *texts[1:]]
    assert table.report.notes == ("1 answers from behind ####",)
    assert answers(bench.prepare(path, format="math")) == texts
    assert answers(bench.prepare(path, answer_pattern=r"(?s)(.+)")) == texts


def test_answers_that_are_numbers_or_lists(bench: Bench) -> None:
    values = [18.0, 1e300, 2.5, ["1", 2.0], ["only"]]
    path = bench.lines(*({"problem": f"{k}?", "answer": value} for k, value in enumerate(values)))
    assert answers(bench.prepare(path, answer_list="all")) == ["18", "1e+300", "2.5", "1, 2", "only"]
    table = bench.prepare(path, on_bad_row="skip")
    assert table.report.bad == {"answer of wrong type": 2}
    assert "of type list, not text or a number; data.train.answer_list=all takes a list" in table.report.examples[0]


SYSTEM = {"role": "system", "content": "Be brief"}


def chat(*turns: dict[str, Any]) -> dict[str, Any]:
    return {"messages": list(turns), "answer": "2"}


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_a_chat_s_last_user_turn_is_the_question(bench: Bench) -> None:
    """What follows it is left out; a system turn of its own takes the place of the configured one."""
    earlier = [turn("user", "Hi"), turn("assistant", "Hello")]
    parts = turn("user", [{"type": "text", "text": "What is "}, {"type": "text", "text": "1+1?"}])
    path = bench.lines(
        chat(turn("user", "What is 1+1?"), turn("assistant", "2")),
        chat(SYSTEM, turn("user", "What is 1+1?")),
        chat(*earlier, parts),
    )
    table = bench.prepare(path)
    assert [question for _, question, _ in contents(table)] == ["What is 1+1?"] * 3
    before = []
    for number in range(3):
        prompt = table.prompt(number)
        decode = bench.prompts._tokenizer.decode
        texts = [decode(prompt.token_ids[slice(*span)]) for span in (prompt.prefix, prompt.question)]
        assert texts[1] == "What is 1+1?"
        before.append(texts[0])
    assert "Be exact." in before[0] and "Be exact." in before[2]
    assert "Be brief" in before[1] and "Be exact." not in before[1]
    assert before[2].index("Be exact.") < before[2].index("Hi") < before[2].index("Hello")
    assert table.prompt(0).token_ids[: len(bench.prompts.prefix_ids)] == bench.prompts.prefix_ids
    assert table.problem(0).turns == "" and json.loads(table.problem(2).turns) == earlier
    assert table.report.notes == ("question from column 'messages'",), "other turns make another question"


def test_scorers_see_the_turns(bench: Bench) -> None:
    table = bench.prepare(bench.lines(chat(SYSTEM, turn("user", "1+1?")), chat(turn("user", "1+2?"))))
    stored = pq.read_table(table.path)
    assert set(AngleMeasure.columns) <= set(stored.column_names)
    assert build_prompts(stored, bench.prompts) == [table.prompt(0), table.prompt(1)]


def test_turns_are_part_of_the_dataset(bench: Bench) -> None:
    digests = {bench.prepare(bench.lines(chat(*turns, turn("user", "1+1?")))).digest for turns in ([], [SYSTEM])}
    assert len(digests) == 2


@pytest.mark.parametrize(
    "messages",
    [[], [turn("assistant", "2")], [turn("user", None)], [turn("user", [{"type": "image"}])], ["text"], [{"a": 1}]],
)
def test_what_is_no_chat_is_a_bad_row(bench: Bench, messages: list[Any]) -> None:
    path = bench.lines(chat(turn("user", "1+1?")), {"messages": messages, "answer": "2"})
    table = bench.prepare(path, on_bad_row="skip")
    assert table.report.bad == {"question of wrong type": 1}
    assert "of type list, not text or a chat with a user turn" in table.report.examples[0]


def test_turns_that_the_template_leaves_out_are_bad_rows(bench: Bench, tmp_path: Path) -> None:
    template = "{% for m in messages %}{% if m.role != 'tool' %}{{ m.content }}\n{% endif %}{% endfor %}"
    config = PromptConfig(system=None, example_question=None, example_answer=None, template=template)
    bench = Bench(tmp_path, PromptBuilder(load_tokenizer(ModelConfig()), config))
    path = bench.lines(chat(turn("tool", "lost"), turn("user", "1+1?")), chat(SYSTEM, turn("user", "1+1?")))
    table = bench.prepare(path, on_bad_row="skip")
    assert table.report.bad == {"turns refused by the template": 1} and len(table) == 1
    path = bench.lines(chat(turn("user", "a<|im_end|>"), turn("user", "1+1?")), chat(turn("user", "1+1?")))
    assert bench.prepare(path, on_bad_row="skip").report.bad == {"special token": 1}
    assert "leaves out or changes a turn of role 'tool'" in table.report.examples[0]


def test_ids_that_are_none(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    path = bench.lines(*(row(number, id=number % 5) for number in range(40)))
    with pytest.raises(DataError) as caught:
        bench.prepare(path)
    assert "(35 duplicate id)" in str(caught.value)
    assert "take file name and row number for ids with data.train.id_column=''" in str(caught.value)
    assert str(caught.value).endswith("or leave out those 35 with data.on_bad_row=skip")
    table = bench.prepare(path, id_column="")
    assert (len(table), table.ids[0], table.ids[39]) == (40, "set.jsonl:1", "set.jsonl:40")
    left = bench.prepare(path, on_bad_row="skip")
    assert (len(left), left.report.notes) == (5, ())
    assert "data.train.id_column=''" in caplog.text
    lists = bench.lines(row(1, id=["a"]), row(2, id=None))
    assert list(bench.prepare(lists, id_column="").ids) == ["set.jsonl:1", "set.jsonl:2"]
    config = load_config(["--data.train.id_column="], presets=PRESETS)
    assert config.data.train.id_column == ""


def test_questions_that_repeat_are_counted_and_said(bench: Bench) -> None:
    path = bench.lines({"problem": "What is  1+1?", "answer": 2}, {"problem": "what is 1+1?", "answer": 2}, row(3))
    assert str(bench.prepare(path).report) == f"3 problems of {path} (1 repeat an earlier question)"


def test_a_limit_that_leaves_rows_out_is_said(bench: Bench) -> None:
    path = bench.lines(*map(row, range(3)))
    assert str(bench.prepare(path, limit=2).report) == f"2 problems of {path} (its first 2 rows, by the limit)"
    assert bench.prepare(path, limit=3).report.notes == ()


def test_held_out_data_are_named_with_training_data() -> None:
    check_heldout_is_named(DataConfig())
    own = SourceConfig(path="train.jsonl")
    with pytest.raises(ConfigError, match=r"'train\.jsonl' and data\.heldout\.path still arithmetic"):
        check_heldout_is_named(DataConfig(train=own))
    check_heldout_is_named(DataConfig(train=own, heldout=HeldoutConfig(path="test.jsonl")))
    check_heldout_is_named(DataConfig(train=own, heldout=HeldoutConfig(split="heldout")))
    for preset in (path.stem for path in PRESETS.glob("*.yaml")):
        check_heldout_is_named(load_config(["--config", preset], presets=PRESETS).data)


def test_held_out_questions_that_are_trained_too(bench: Bench) -> None:
    train = bench.prepare(bench.lines(*map(row, range(10)), name="train.jsonl"))
    test = bench.lines(row(3), row(50), {"problem": "what is\n7+1?", "answer": 8}, name="test.jsonl")
    assert overlap(train, bench.prepare(test)) == (
        "2 of 3 held-out questions are in data.train too, so that held-out accuracy says little of new problems: "
        "test.jsonl:1, test.jsonl:3"
    )
    assert overlap(train, bench.prepare(bench.lines(row(50), name="other.jsonl"))) == ""
    assert overlap(train, train).endswith("train.jsonl:1, train.jsonl:2, train.jsonl:3, ...")


def test_the_same_last_turn_of_another_chat_is_another_question(bench: Bench) -> None:
    def chat(first: str) -> dict[str, Any]:
        turns = [("user", first), ("assistant", "Yes."), ("user", "And twice that?")]
        return {"messages": [{"role": role, "content": content} for role, content in turns], "answer": 1}

    train = bench.prepare(bench.lines(chat("Is 2 even?"), chat("Is 4 even?"), name="train.jsonl"))
    assert not any("repeat" in note for note in train.report.notes)
    heldout = bench.prepare(bench.lines(chat("Is 6 even?"), chat("is  4 even?"), name="heldout.jsonl"))
    assert overlap(train, heldout).startswith("1 of 2 held-out questions") and "heldout.jsonl:2" in overlap(
        train, heldout
    )
