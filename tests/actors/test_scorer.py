import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from tolerances import rounding, roundings_in

from gainrl_ray.actors import scorer
from gainrl_ray.actors.measures import AngleMeasure
from gainrl_ray.actors.scorer import FINISHED, PARTS, Scorer, ScoringPlan, score_problems, threads_of_scorer
from gainrl_ray.config import ModelConfig, PromptConfig, ScoringConfig
from gainrl_ray.data.arithmetic import generate
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.errors import DataError, DeadlineError, ModelError, ResourceError
from gainrl_ray.model.loading import load_model, load_tokenizer
from gainrl_ray.model.prefill import prefill_angles
from gainrl_ray.storage import Storage

COUNT = 240


class Interrupted(Exception):
    pass


def write_problems(folder, problems):
    columns = {
        "row": range(len(problems)),
        "problem_id": [problem.id for problem in problems],
        "question": [problem.question for problem in problems],
        "turns": [""] * len(problems),
    }
    Storage(str(folder)).write_table("problems.parquet", pa.table(columns))


def plan_in(folder, **scoring):
    settings = {"block_rows": 8, "cpus_per_actor": 0.5, "deadline_s": 240.0} | scoring
    return ScoringPlan(
        problems=f"{folder}/problems.parquet",
        work=Storage(f"{folder}/work"),
        model=ModelConfig(path="tiny", dtype="float32"),
        prompt=PromptConfig(),
        scoring=ScoringConfig(**settings),
        measure=AngleMeasure(),
    )


def finished_rows(plan):
    """Ids that Ray Data has recorded as written, one list per block."""
    folder = plan.work.child(FINISHED)
    names = [name for name in folder.list() if not name.endswith(".pending.parquet")]
    return [folder.read_table(name)["problem_id"].to_pylist() for name in names]


def wait_until_idle():
    deadline = time.monotonic() + 120
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, "the killed pipeline still holds CPUs after 120 s"
        time.sleep(0.2)


def test_a_killed_scoring_continues_and_equals_one_process(ray_session, tmp_path, monkeypatch):
    tmp_path /= "row=a b#c%20"  # nothing in a folder's name is taken for a column or an escape
    problems = [item.problem for item in generate("train", COUNT)]
    write_problems(tmp_path, problems)
    monkeypatch.setattr(scorer, "_POLL_S", 0.02)
    monkeypatch.setattr(scorer, "_REPORT_EVERY_S", 0.0)
    first = plan_in(tmp_path, batch_tokens=1)

    def interrupt(_):
        if len(finished_rows(first)) >= 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        score_problems(first, interrupt)
    wait_until_idle()
    kept = [problem_id for block in finished_rows(first) for problem_id in block]
    assert len(kept) < COUNT
    assert len(kept) % 8 == 0

    second = plan_in(tmp_path, min_actors=2, max_actors=2, batch_tokens=2048)
    assert score_problems(second) == COUNT - len(kept)

    parts = second.work.child(PARTS)
    parts = pa.concat_tables(map(parts.read_table, parts.list()))
    assert sorted(parts["problem_id"].to_pylist()) == sorted(problem.id for problem in problems)
    assert max(len(block) for block in finished_rows(second)) <= 8
    parts = parts.sort_by("row")
    prompts = PromptBuilder(load_tokenizer(first.model), first.prompt)
    model = load_model(first.model)
    expected = prefill_angles(model, [prompts.build(problem) for problem in problems], 0, 4096)
    for name in ("c_intra", "c_inter", "prompt_tokens", "question_tokens"):
        alone = np.array([getattr(score, name) for score in expected])
        np.testing.assert_allclose(parts[name].to_numpy(), alone, rtol=0, atol=rounding(roundings_in(model)))
    np.testing.assert_array_equal(parts["score"].to_numpy(), parts["c_intra"].to_numpy() + parts["c_inter"].to_numpy())


@pytest.mark.parametrize(
    ("settings", "cores", "threads"),
    [
        ({}, 2, 2),
        ({"max_actors": 2, "cpus_per_actor": 1.0}, 2, 1),
        ({"max_actors": 3}, 8, 2),
        ({"max_actors": 64, "cpus_per_actor": 4.0}, 16, 4),  # four fit a node
        ({"max_actors": 9}, 2, 1),
        ({"threads_per_actor": 5}, 2, 5),
    ],
)
def test_scorers_share_the_cores_of_their_node(settings, cores, threads):
    assert threads_of_scorer(ScoringConfig(**settings), cores) == threads


def test_a_model_that_does_not_load_is_told_by_the_first_call(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # put back after the test: a scorer has a process of its own
    model = ModelConfig(path=str(tmp_path))
    actor = Scorer(model, PromptConfig(), ScoringConfig(), AngleMeasure(), job=None)
    with pytest.raises(ModelError, match="folder without config"):
        actor(pa.table({"row": [0], "problem_id": ["a"], "question": ["What is 2+2?"], "turns": [""]}))


def test_a_scorer_computes_where_it_was_told(monkeypatch):
    """Without GPUs on the CPU, whose attention is not flash attention; with one, nowhere else."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = ModelConfig(attention="flash_attention_2")
    actor = Scorer(model, PromptConfig(), ScoringConfig(), AngleMeasure(), job=None)
    assert actor._refusal is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    actor = Scorer(model, PromptConfig(), ScoringConfig(gpus_per_actor=0.5), AngleMeasure(), job=None)
    with pytest.raises(ResourceError, match=r"scoring\.gpus_per_actor=0\.5 asks for a CUDA GPU"):
        actor(pa.table({"row": [0], "problem_id": ["a"], "question": ["What is 2+2?"], "turns": [""]}))


def test_an_error_of_a_worker_arrives_as_it_was_raised(ray_session, tmp_path):
    problems = [item.problem for item in generate("train", 4)]
    problems[2] = replace(problems[2], question="why " * 600)
    write_problems(tmp_path, problems)
    with pytest.raises(DataError, match=f"problem '{problems[2].id}': its prompt has .* tokens"):
        score_problems(plan_in(tmp_path))


def test_a_query_in_a_folder_s_name_loses_no_scores(ray_session, tmp_path):
    problems = [item.problem for item in generate("train", 12)]
    write_problems(tmp_path / "a?b", problems)
    plan = plan_in(tmp_path / "a?b", batch_tokens=4096)
    assert score_problems(plan) == 12
    parts = plan.work.child(PARTS)
    found = pa.concat_tables(map(parts.read_table, parts.list()))
    assert sorted(found["problem_id"].to_pylist()) == sorted(problem.id for problem in problems)


def test_the_deadline_ends_a_scoring(ray_session, tmp_path):
    write_problems(tmp_path, [item.problem for item in generate("train", 4)])
    started = time.monotonic()
    with pytest.raises(DeadlineError, match=r"scoring.deadline_s = 0.01 s: 0 problems were scored.*command continues"):
        score_problems(plan_in(tmp_path, deadline_s=0.01))
    assert time.monotonic() - started < 120


def test_a_cluster_that_is_too_small_is_refused(ray_session, tmp_path):
    with pytest.raises(ResourceError, match=r"CPU: needed 300.1 \(3 scorer x 100 .*, the cluster has 8"):
        score_problems(plan_in(tmp_path, min_actors=3, max_actors=3, cpus_per_actor=100.0))
