"""What a person gets for bad input: exit status 2 and one message that names what was received and what to do."""

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gainrl_ray.model.loading import TINY_FOLDER

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
    "unknown curriculum": (lambda d: ["--curriculum.name=gane"], r"gane.*gain"),
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
    "unknown kind of file": (lambda d: [rows(d, "a,b", name="train.csv")], r"train\.csv.*jsonl"),
    "unknown split": (lambda d: ["--data.train.split=tset"], r"tset"),
    "fewer problems than a step needs": (
        lambda d: [rows(d, row(0), row(1))],
        r"problems_per_step is 32 and data\.train has 2 problems",
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
    "too small a vocabulary": (lambda d: [model(d, config={"vocab_size": 100})], r"tokens, the embedding 100 rows"),
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
    argv = [f"--run.storage={tmp_path}/runs", "--run.name=bad", *arguments(tmp_path)]
    status = job("train").main(argv)
    printed = capsys.readouterr().err
    assert status == 2, printed
    message = printed[printed.rindex("error: ") :]
    assert "Traceback" not in message
    assert re.search(expected, message, re.DOTALL), message
