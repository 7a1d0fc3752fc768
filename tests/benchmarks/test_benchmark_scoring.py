"""The peer's scores are the paper's, and so are ours: only then is a ratio of speeds worth something."""

import json
from pathlib import Path

import numpy as np
import pytest
from tolerances import rounding, roundings_in

from gainrl_ray.benchmarks.released import released_scores
from gainrl_ray.benchmarks.scoring import ScoringBenchmark, needed_operations, random_prompts, run
from gainrl_ray.model.prefill import prefill_angles, signal_states
from gainrl_ray.model.shapes import SHAPES, random_model

QUESTIONS = ["short one", "a question of some more words than that", "x" * 90]


def test_both_procedures_give_the_papers_score() -> None:
    import torch

    model = random_model("small", dtype="float32", device="cpu")
    prompts = random_prompts(QUESTIONS, SHAPES["small"].vocabulary)
    found = released_scores(model, prompts)
    ours = prefill_angles(model, prompts, pad_id=0, batch_tokens=400)
    allowed = rounding(roundings_in(model))
    assert found == pytest.approx([score.c_intra + score.c_inter for score in ours], abs=allowed)
    states = signal_states(model, torch.tensor([prompts[0].token_ids]))[0].double().numpy()
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    inside = [float(unit[i] @ unit[j]) for i in range(110, 112) for j in range(110, 112)]
    between = [float(unit[i] @ unit[j]) for i in range(110, 112) for j in range(110)]
    assert found[0] == pytest.approx(np.mean(inside) + np.mean(between), abs=allowed)


def test_operations_are_those_that_the_scores_need() -> None:
    model = random_model("small", dtype="float32", device="cpu")
    prompts = random_prompts(QUESTIONS[:2], 512)  # questions of 2 and 10 tokens after a prefix of 110
    # Queries and outputs 64 x 64, keys and values 64 x 32; the MLP's three matrices in the first of two layers only.
    weights = 2 * (2 * 64 * 64 + 2 * 64 * 32) + 3 * 64 * 128
    keys = sum(range(1, 111)) + (111 + 112) + sum(range(111, 121))
    assert needed_operations(model, prompts) == 2 * weights * (110 + 2 + 10) + 2 * 4 * 64 * keys


def test_prompts_have_one_prefix_and_the_lengths_of_their_questions() -> None:
    prompts = random_prompts(QUESTIONS, 512)
    assert len({prompt.token_ids[:110] for prompt in prompts}) == 1
    assert [prompt.question.length for prompt in prompts] == [2, 10, 22]
    assert all(len(prompt.token_ids) == prompt.suffix.stop for prompt in prompts)


def test_the_figures_of_a_run() -> None:
    figures = run(ScoringBenchmark(shape="small", dtype="float32", problems=4, rounds=2), QUESTIONS)
    model = random_model("small", dtype="float32", device="cpu")
    assert figures["largest difference of a score"] < rounding(roundings_in(model))
    speeds = figures["prompts per second"]
    assert speeds["gainrl-ray"].low > 0 and speeds["released"].low > 0
    assert figures["share of the peak"].low > 0
    assert figures["GFLOP/s"]["peak of a matrix product"].low > 0
    assert figures["ratio"].low <= figures["ratio"].median <= figures["ratio"].high


def test_the_job_prints_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "jobs"))
    import benchmark

    out = tmp_path / "figures.json"
    assert benchmark.main(["select", "--sizes", "50", "1000", "--count", "20", "--rounds", "3", f"--json={out}"]) == 0
    printed = capsys.readouterr().out
    assert "1,000" in printed and "uniform" in printed and "processor" in printed
    (table,) = (part for part in json.loads(out.read_text()).values() if "rows" in part)
    spread = table["rows"]["uniform"]["1,000"]["milliseconds"]
    assert 0 < spread["low"] <= spread["median"] <= spread["high"]
