"""Small folders of runs and comparisons for the pages."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gainrl_ray.data.orders import keep_order
from gainrl_ray.data.rollout_table import groups_to_table
from gainrl_ray.report.provenance import write_environment, write_order
from gainrl_ray.storage import Storage
from gainrl_ray.types import Completion, Grade, GradedGroup, Outcome, Problem, Prompt, RolloutGroup, Span

PROBLEMS, GROUPS, SAMPLES = 12, 3, 2
HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\"> 1 < 2 & 3"


def group(slot: int, row: int, outcomes: list[Outcome], text: str = "so it is 4") -> GradedGroup:
    """A group of one problem, its completions of 3, 4, ... tokens."""
    completions = tuple(
        Completion(token_ids=tuple(range(3 + i)), logprobs=(0.0,) * (3 + i), finish_reason="stop", text=f"{text} {i}")
        for i in range(len(outcomes))
    )
    spans = {name: Span(0, 1) for name in ("prefix", "question", "suffix")}
    made = RolloutGroup(
        slot=slot,
        row=row,
        problem=Problem(id=f"p{row}", question=f"What is {row} + 1?", answer=str(row + 1), source="made"),
        prompt=Prompt(problem_id=f"p{row}", token_ids=(0,), **spans),
        completions=completions,
        policy_version=0,
    )
    grades = tuple(Grade(outcome=outcome, reward=float(outcome is Outcome.CORRECT)) for outcome in outcomes)
    return GradedGroup(group=made, grades=grades)


def record(step: int, **more: Any) -> dict[str, Any]:
    """What a run logs of a step, in short."""
    return {
        "step": step,
        "accuracy": 0.5,
        "reward": 0.5,
        "reward_std": 0.5,
        "informative_groups": 1.0,
        "truncated": 0.0,
        "completion_tokens": 3.5,
        "outcome/correct": 0.5,
        "outcome/wrong": 0.5,
        "grad_norm": 0.3 + step / 10,
        "entropy": 0.2,
        "kl": None,
        "mismatch_kl": 1e-7,
        "seconds/generate": 1.0,
        "seconds/train": 2.0,
        "seconds/wait": 0.5,
        "total/problems": GROUPS * step,
        "total/rollouts": GROUPS * SAMPLES * step,
        "total/tokens": 21 * step,
        "total/seconds": 3.5 * step,
    } | more


def run_folder(folder: Path, steps: int = 4, *, gain: bool = True, hostile: str = HOSTILE) -> Storage:
    """A run over 12 problems whose rank is 11 - row: step s draws ranks s-1, s, s+1; slot 0 is always half correct,
    slot 1 wrong, slot 2 correct."""
    run = Storage(str(folder))
    records: list[dict[str, Any]] = [{"step": 0, "eval/accuracy": 0.25, "eval/accuracy/a": 0.5, "eval/accuracy/b": 0.0}]
    for step in range(1, steps + 1):
        mu = {"curriculum/mu": float(step), "curriculum/sigma": 2.0} if gain else {}
        held = {"eval/accuracy": 0.75, "eval/accuracy/a": 1.0, "eval/accuracy/b": 0.5} if step == steps else {}
        records.append(record(step, **mu, **held))
        rows = [PROBLEMS - 1 - rank % PROBLEMS for rank in range(step - 1, step + 2)]
        groups = [
            group(0, rows[0], [Outcome.CORRECT, Outcome.WRONG], hostile),
            group(1, rows[1], [Outcome.WRONG, Outcome.UNPARSABLE]),
            group(2, rows[2], [Outcome.CORRECT, Outcome.CORRECT]),
        ]
        run.child("rollouts").write_table(f"step_{step - 1:06d}.parquet", groups_to_table(step - 1, groups))
    run.write_text("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in records))
    name = "gain\n  sigma: 2.0" if gain else "uniform"
    run.write_text("config.yaml", f"run:\n  steps: {steps}\nmodel:\n  path: tiny\ncurriculum:\n  name: {name}\n")
    order = keep_order(Storage(str(folder.parent / "index")), "order.npy", PROBLEMS, lambda: np.arange(PROBLEMS)[::-1])
    write_order(run, order if gain else range(PROBLEMS), "angle" if gain else "none")
    write_environment(run, {"CPU": 2.0, "memory": 2.0**34, "node:127.0.0.1": 1.0})
    return run


def measure(mean: float | None, not_reached: int = 0, runs: int = 3) -> dict[str, Any]:
    """A cell of a comparison's table, 0.1 to each side."""
    spread = {"low": None, "high": None} if mean is None else {"low": mean - 0.1, "high": mean + 0.1}
    return {"mean": mean, **spread, "runs": runs, "not_reached": not_reached}


def comparison_folder(
    folder: Path, strategies: tuple[str, ...] = ("gain", "uniform", "length"), seeds: int = 3
) -> Storage:
    """A comparison in which seed s of the strategy at place p is at accuracy (step + s + p) / 10 after each step."""
    rows = []
    for place, strategy in enumerate(strategies):
        for seed in range(seeds):
            for step in range(5):
                known = step % 2 == 0
                rows.append(
                    {
                        "strategy": strategy,
                        "seed": seed,
                        "step": step,
                        "eval_accuracy": min(1.0, (step + seed + place) / 10) if known else None,
                        "accuracy": 0.5 if step else None,
                        "reward": 0.5 if step else None,
                        "informative_groups": 0.8 if step else None,
                        "grad_norm": 1.0 + seed if step else None,
                        "total_problems": 3 * step,
                        "total_rollouts": 6 * step,
                        "total_tokens": 100 * step * (seed + 1),
                        "total_seconds": 2.0 * step,
                        "scoring_seconds": 5.0 if strategy == "gain" else 0.0,
                    }
                )
    comparison = Storage(str(folder))
    comparison.write_table("curves.parquet", pa.Table.from_pylist(rows))
    baselines = [name for name in ("uniform", "length") if name in strategies]
    table = {
        "name": folder.name,
        "target_accuracy": 0.5,
        "baselines": baselines,
        "rows": [_row(strategy, place, seeds, baselines) for place, strategy in enumerate(strategies)],
        "failed": [{"strategy": "gain", "seed": 7, "error": HOSTILE}],
        "claims": [{"text": "gain is faster", "verdict": "open", "figure": "1.2 [0.9, 1.5]"}],
    }
    comparison.write_text("table.json", json.dumps(table))
    signals = [
        {"signal": "angle", "against": "prompt length", "spearman": -0.9, "low": -0.95, "high": -0.8}
        | {"partial": None, "partial_low": None, "partial_high": None, "problems": 200},
        {"signal": "angle", "against": "pass rate", "spearman": 0.4, "low": 0.2, "high": 0.6}
        | {"partial": 0.05, "partial_low": -0.1, "partial_high": 0.2, "problems": 200},
    ]
    comparison.write_text("diagnostics.json", json.dumps({"signals": signals}))
    return comparison


def _row(strategy: str, place: int, seeds: int, baselines: list[str]) -> dict[str, Any]:
    figures = {
        "final_accuracy": measure(0.5 + place / 10),
        "steps_to_target": measure(4.0, not_reached=place, runs=seeds),
        "problems_to_target": measure(12.0, not_reached=place, runs=seeds),
        "rollouts_to_target": measure(24.0, not_reached=place, runs=seeds),
        "tokens_to_target": measure(1234567.0),
        "seconds_to_target": measure(None, not_reached=seeds, runs=seeds),
        "zero_variance": measure(0.2),
        "grad_norm": measure(2.0),
    }
    unlike = [baseline for baseline in baselines if baseline != strategy]
    against = {
        baseline: {
            name: {"difference": 0.2 if name == "final_accuracy" else -0.05, "low": 0.1, "high": 0.3}
            if name == "final_accuracy"
            else {"difference": -0.05, "low": -0.1, "high": 0.1}
            for name in figures
        }
        for baseline in unlike
    }
    return {
        "strategy": strategy,
        "runs": seeds,
        "failed": int(strategy == "gain"),
        "measures": figures,
        "against": against,
    }
