"""jobs/plan.py from the outside: its table, and its messages for bad input."""

import re
from pathlib import Path

import pytest
from test_bad_input import job

SMALL = ["--rollout.problems_per_step=64", "--learner.updates_per_step=1"]


def test_the_table_shows_the_config_s_split_beside_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--config", "qwen2.5-math-7b-deepscaler", "--gpus", "4", "8", "--best", "2", *SMALL]
    assert job("plan").main(argv) == 0
    printed = capsys.readouterr().out
    assert "7,615,616,512 weights" in printed
    assert re.search(r"train_share\s+0\.4", printed)
    assert re.search(r"^4 GPUs\n.*as configured\s+8\s+4 x 1\s+4\s+3\s.*does not fit", printed, re.DOTALL | re.MULTILINE)
    eight = printed[printed.index("\n8 GPUs") :]
    rows = dict(re.findall(r"^\s+(as configured|best \d)\s.*\s([\d.]+)$", eight, re.MULTILINE))
    assert float(rows["best 1"]) >= float(rows["best 2"])
    assert float(rows["best 1"]) >= float(rows["as configured"]) > 0
    assert all(len(line) <= 140 for line in printed.splitlines())


def test_a_cpu_machine_is_planned_without_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert job("plan").main(["--gpu", "cpu", "--gpus", "2", "--group_policy.name=dynamic_sampling"]) == 0
    printed = capsys.readouterr().out
    assert "1,061,632 weights" in printed and "group_policy and replay are left out" in printed
    assert "best" not in printed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--gpu", "h999"], r"--gpu h999: accepted are a100-80, h100-80, h200-141, cpu"),
        (["--gpus", "0"], r"--gpus 0: accepted are counts from 1 on"),
        (["--gpus", "many"], r"--gpus.*many"),
        (["--assume", "train_shar=1"], r"--assume train_shar=1.*train_share"),
        (["--assume", "train_share=2"], r"--assume train_share=2"),
        (["--assume", "copy_gbs=0"], r"--assume copy_gbs=0: shares and rates are above 0"),
        (["--device", "tflops=fast"], r"--device tflops=fast.*memory_gib"),
        (["--completion-tokens", "0"], r"--completion-tokens 0"),
        (["--completion-spread", "-1"], r"--completion-spread -1"),
        (["--against", "x"], r"--against needs --measured"),
        (["--measured", "no_such_run"], r"no_such_run: expected a run's folder"),
        (["--model.path=unknown/model"], r"unknown/model.*config\.json"),
        (["--rollout.enginez=2"], r"rollout\.enginez.*rollout\.engines"),
    ],
)
def test_bad_input_gets_one_clear_message(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job("plan").main([f"--run.storage={tmp_path}", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    assert re.search(expected, message, re.DOTALL), message
