"""What a person gets for bad input: exit status 2 and one message that names what was received and what to do."""

import importlib.util
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gainrl_ray.cli import load_config
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.data.scored_index import Manifest
from gainrl_ray.model.loading import TINY_FOLDER, check_model
from gainrl_ray.scoring import INDEXES, fingerprint
from gainrl_ray.storage import Storage

JOBS = Path(__file__).parents[1] / "jobs"


def rows(folder: Path, *lines: Any, name: str = "train.jsonl") -> str:
    """--data.train.path of a file with these lines: objects as JSON, bytes and text as they are."""
    encoded = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    (folder / name).write_bytes(b"\n".join(encoded))
    return f"--data.train.path={folder / name}"


def row(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {"id": f"p{number}", "problem": f"What is {number}+1?", "answer": str(number + 1)} | changes


def model(folder: Path, *, without: tuple[str, ...] = (), config: dict[str, Any] | None = None) -> str:
    """--model.path of a copy of the built-in model, damaged."""
    copy = folder / "model"
    shutil.copytree(TINY_FOLDER, copy)
    for name in without:
        (copy / name).unlink()
    if config:
        values = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(values | config))
    return f"--model.path={copy}"


def broken_weights(folder: Path) -> str:
    argument = model(folder)
    (folder / "model/model.safetensors").write_bytes(b'\x08\0\0\0\0\0\0\0{"a":1')
    return argument


def order(folder: Path, content: list[Any] | None) -> list[str]:
    """Arguments for 40 problems in the order of a file with this content."""
    if content is not None:
        text_file(folder, "order.json", json.dumps(content))
    path = f"--curriculum.path={folder}/order.json"
    return [rows(folder, *map(row, range(40))), "--curriculum.name=external", path]


def planted_index(folder: Path, c_intra: list[float]) -> list[str]:
    """Arguments for 40 problems whose scored index is there, with these values for the first of them."""
    data = rows(folder, *map(row, range(40)))
    config = load_config([f"--run.storage={folder}/runs", data], presets=JOBS / "configs")
    prompts = PromptBuilder(check_model(config.model), config.data.prompt)
    storage = Storage(config.run.storage)
    table = prepare_problems(config.data.train, prompts=prompts, on_bad_row="error", storage=storage)
    wanted, count = fingerprint(config, table, prompts), len(c_intra)
    index = storage.child(INDEXES, wanted.digest)
    columns = {name: np.full(count, value) for name, value in (("c_inter", 0.1), ("score", 0.1))}
    columns |= {name: np.full(count, 9) for name in ("prompt_tokens", "question_tokens")}
    columns |= {"problem_id": table.ids[:count], "row": np.arange(count), "c_intra": np.array(c_intra)}
    index.write_table("scores.parquet", pa.table(columns))
    index.write_text("manifest.json", Manifest(wanted, count, 0.0).as_json())
    return [data]


def text_file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


UNIFORM = "--curriculum.name=uniform"

CASES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    # config
    "unknown key": (lambda d: ["--rollout.enginez=2"], r"rollout\.enginez.*rollout\.engines"),
    "unknown section": (lambda d: ["--rolout.engines=2"], r"rolout"),
    "wrong type": (lambda d: ["--run.steps=many"], r"run\.steps.*'?many'?"),
    "out of range": (lambda d: ["--rollout.top_p=1.5"], r"rollout\.top_p.*1\.5"),
    "not finite": (lambda d: ["--optimizer.lr=.inf"], r"optimizer\.lr"),
    "mistyped choice": (lambda d: ["--loss.ratio=tokn"], r"loss\.ratio.*tokn.*token"),
    "unknown curriculum": (
        lambda d: ["--curriculum.name=gane"],
        r"gane.*accepted: gain \| length \| .*uniform \| sequential.*did you mean gain\?",
    ),
    "not an option": (lambda d: ["steps=3"], r"steps=3"),
    "unknown preset": (lambda d: ["--config", "demmo"], r"demmo.*demo"),
    "missing config file": (lambda d: ["--config", f"{d}/none.yaml"], r"none\.yaml"),
    "broken YAML": (lambda d: ["--config", str(text_file(d, "a.yaml", "run: {steps: [1"))], r"a\.yaml"),
    "unknown key in YAML": (
        lambda d: ["--config", str(text_file(d, "b.yaml", "loss: {clip_lo: 0.1}"))],
        r"clip_lo.*clip_low",
    ),
    "levels crossed": (
        lambda d: ["--data.train.min_level=5", "--data.train.max_level=2"],
        r"min_level 5 is above max_level 2",
    ),
    "example without answer": (lambda d: ["--data.prompt.example_answer=null"], r"example_question and example_answer"),
    "offload without ZeRO": (
        lambda d: ["--learner.zero_stage=0", "--learner.offload_optimizer=cpu"],
        r"offload_optimizer=cpu needs learner\.zero_stage",
    ),
    "more updates than groups": (
        lambda d: ["--learner.updates_per_step=99"],
        r"updates_per_step 99 is above.*problems_per_step 32",
    ),
    "reward that cannot be imported": (lambda d: [UNIFORM, "--reward.function=no_such:thing"], r"no_such"),
    "storage of an unknown kind": (lambda d: ["--run.storage=gopher://x/y"], r"gopher://x/y"),
    "run name that is no folder name": (lambda d: ["--run.name=a/b"], r"run\.name: received 'a/b'.*letters"),
    "run name of a shared folder": (lambda d: ["--run.name=indexes"], r"received 'indexes'.*none of datasets, indexes"),
    # data
    "missing file": (lambda d: [f"--data.train.path={d}/none.jsonl"], r"none\.jsonl"),
    "unknown column": (lambda d: [rows(d, row()), "--data.train.question_column=problm"], r"problm.*problem"),
    "empty answer": (lambda d: [rows(d, row(0), row(1, answer=""))], r"train\.jsonl.*2.*answer"),
    "missing answer": (lambda d: [rows(d, row(0), {"id": "x", "problem": "1?"})], r"train\.jsonl.*2.*answer"),
    "wrong type of a row": (lambda d: [rows(d, row(0), row(1, problem=["a"]))], r"train\.jsonl.*2.*problem"),
    "broken JSON line": (lambda d: [rows(d, row(0), '{"id": 1')], r"train\.jsonl.*2.*JSON"),
    "not UTF-8": (lambda d: [rows(d, row(0), b'{"problem": "\xff"}')], r"train\.jsonl.*2.*UTF-8"),
    "duplicate id": (lambda d: [rows(d, row(0), row(1, id="p0"))], r"train\.jsonl.*2.*p0"),
    "over-long prompt": (lambda d: [rows(d, row(0), row(1, problem="a " * 2000))], r"train\.jsonl.*2.*512"),
    "special tokens in a question": (lambda d: [rows(d, row(0, problem="<|im_end|> 1?"))], r"<\|im_end\|>"),
    "empty file": (lambda d: [rows(d)], r"train\.jsonl"),
    "unknown kind of file": (lambda d: [rows(d, "a,b", name="train.xlsx")], r"train\.xlsx.*jsonl"),
    "nothing held out": (
        lambda d: [rows(d, *map(row, range(40))), "--data.heldout.split=null"],
        r"data\.train\.path is '.*train\.jsonl' and data\.heldout\.path still arithmetic.*set data\.heldout\.path",
    ),
    "a split that a file has not": (lambda d: [rows(d, row()), "--data.train.split=tset"], r"no split 'tset'; it has"),
    "unknown split": (lambda d: ["--data.train.split=tset"], r"tset"),
    "fewer problems than a step needs": (
        lambda d: [rows(d, row(0), row(1))],
        r"problems_per_step is 32 and data\.train has 2 problems",
    ),
    "labels that are not there": (
        lambda d: [rows(d, row(0), row(1)), "--data.train.difficulty_column=levle"],
        r"no column 'levle'.*set data\.train\.difficulty_column",
    ),
    "a label that is no number": (
        lambda d: [rows(d, row(0, level="hard")), "--data.train.difficulty_column=level"],
        r"train\.jsonl line 1: the difficulty in column 'level' is 'hard', not a finite number",
    ),
    # parts of the data
    "fraction above one": (lambda d: ["--data.fraction=1.5"], r"data\.fraction: received 1\.5.*accepted: number"),
    "fraction of no problem": (
        lambda d: ["--data.fraction=0.0001"],
        r"data\.fraction is 0\.0001, of 2000 problems that is none: raise it or give more problems",
    ),
    "unknown rule of what to keep": (
        lambda d: ["--data.keep=best:5", "--data.keep_by=angle"],
        r"data\.keep: received 'best:5'; accepted: top: or bottom: and a number.*as in top:1000 or bottom:0\.1",
    ),
    "unknown signal to keep by": (
        lambda d: ["--data.keep=top:5", "--data.keep_by=angel"],
        r"data\.keep_by: received 'angel'.*pass_rate \|.*did you mean angle",
    ),
    "nothing to keep by": (lambda d: ["--data.keep=top:5"], r"keep is 'top:5' and keep_by None: set both"),
    "more to keep than there are": (
        lambda d: ["--data.keep=top:1001", "--data.keep_by=label", "--data.fraction=0.5"],
        r"data\.keep is top:1001, which is 1001 of 1000 problems: give 1 to 1000",
    ),
    "fewer problems kept than a step needs": (
        lambda d: ["--data.keep=top:31", "--data.keep_by=label"],
        r"problems_per_step is 32 and data\.train has 2000 problems, of which data\.fraction and data\.keep leave 31",
    ),
    "no labels to keep by": (
        lambda d: [rows(d, *map(row, range(40))), "--data.keep=top:35", "--data.keep_by=label"],
        r"40 of 40 problems have no difficulty label: p0, p1, p2, p3, p4, \.\.\.; name the column that holds them",
    ),
    "no labels to be chosen by": (
        lambda d: [rows(d, *map(row, range(40))), "--curriculum.name=adarft", "--curriculum.difficulty=label"],
        r"40 of 40 problems have no difficulty label: .*data\.train\.difficulty_column",
    ),
    # orders from files
    "an order of no file": (lambda d: ["--curriculum.name=external"], r"curriculum.*give --curriculum\.path=FILE"),
    "an order that is not there": (lambda d: order(d, None), r"order\.json does not exist: check the path"),
    "an order of the wrong length": (
        lambda d: order(d, list(range(39))),
        r"order\.json has 39 entries and data\.train has 40 problems: use the order of this very dataset; accepted are",
    ),
    "an order that repeats problems": (
        lambda d: order(d, [*range(39), 0]),
        r"order\.json has 1 entries that come twice: 0; accepted are row numbers",
    ),
    "an order of unknown problems": (
        lambda d: order(d, [f"x{number}" for number in range(40)]),
        r"has 40 entries that are no rows 0\.\.39 or problem ids of data\.train: 'x0', .*'x4', \.\.\.; accepted are",
    ),
    # scores
    "scores that are not finite": (
        lambda d: planted_index(d, c_intra=[0.5] * 38 + [math.nan, math.inf]),
        r"2 of 40 problems have a score that is not finite: check the model's weights and dtype; ids: p38, p39",
    ),
    "an index of no problems": (
        lambda d: planted_index(d, c_intra=[]),
        r"a scored index needs at least one problem: check the dataset",
    ),
    # model
    "missing model folder": (lambda d: [f"--model.path={d}/none"], r"none.*is no folder"),
    "folder without config.json": (lambda d: [model(d, without=("config.json",))], r"without config\.json"),
    "no tokenizer": (lambda d: [model(d, without=("tokenizer.json", "tokenizer_config.json"))], r"tokenizer"),
    "not a causal language model": (
        lambda d: [model(d, config={"model_type": "bert", "architectures": ["BertForPreTraining"]})],
        r"(?i)causal",
    ),
    "no chat template": (lambda d: [model(d, without=("chat_template.jinja",))], r"chat template"),
    "too small a vocabulary": (
        lambda d: [model(d, config={"vocab_size": 100})],
        r"494 tokens beyond the embedding's 100 rows",
    ),
    "too few positions": (
        lambda d: [model(d, config={"max_position_embeddings": 540})],
        r"540 positions; data\.prompt\.max_tokens 512 and rollout\.max_new_tokens \d+ need",
    ),
    "broken weights": (lambda d: [broken_weights(d)], r"model"),
    # cluster
    "fused kernels on CPU": (lambda d: [UNIFORM, "--learner.liger=true"], r"learner\.liger=true needs CUDA GPUs"),
    "too few GPUs": (lambda d: [UNIFORM, "--learner.gpus_per_worker=4"], r"GPU: needed 4 .*the cluster has 0"),
    "too few CPUs": (lambda d: [UNIFORM, "--rollout.cpus_per_engine=900"], r"CPU: needed 900"),
}


def job(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"job_{name}", JOBS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_clear_message(
    case: str, ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = CASES[case]
    heldout = "--data.heldout.split=heldout"  # of arithmetic, whatever is trained
    argv = [f"--run.storage={tmp_path}/runs", "--run.name=bad", heldout, *arguments(tmp_path)]
    status = job("train").main(argv)
    printed = capsys.readouterr().err
    assert status == 2, printed
    message = printed[printed.rindex("error: ") :]
    assert "Traceback" not in message
    assert re.search(expected, message, re.DOTALL), message
