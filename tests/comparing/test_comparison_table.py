"""Curves and table of small comparisons, against values worked out by hand."""

import json
from typing import Any

import pytest

from gainrl_ray.comparing.curves import SCHEMA, curves, is_finished
from gainrl_ray.comparing.grid import Cell
from gainrl_ray.comparing.markdown import to_markdown
from gainrl_ray.comparing.table import make_table, runs_by_arm
from gainrl_ray.config import Config


def cell(arm: str, seed: int, steps: int = 4) -> Cell:
    config = Config.model_validate({"run": {"steps": steps, "name": f"c.{arm}.{seed}"}, "evaluation": {"every": 2}})
    return Cell(arm=arm, seed=seed, config=config)


def records(accuracies: tuple[float, float, float], step_s: float = 10.0) -> list[dict[str, Any]]:
    """A run of four steps, evaluated at 0, 2 and 4, of 8 problems, 32 rollouts and 100 tokens a step."""
    found: list[dict[str, Any]] = [{"step": 0, "eval/accuracy": accuracies[0]}]
    for step in range(1, 5):
        record = {"step": step, "accuracy": 0.5, "reward": 0.5, "informative_groups": 0.2 * step, "grad_norm": 2.0}
        totals = {"problems": 8 * step, "rollouts": 32 * step, "tokens": 100 * step, "seconds": step_s * step}
        record |= {f"total/{name}": value for name, value in totals.items()}
        found.append(record | ({"eval/accuracy": accuracies[step // 2]} if step % 2 == 0 else {}))
    found[2]["grad_norm"] = None  # not finite, as metrics.jsonl has it
    return found


RUNS = {
    ("uniform", 0): records((0.1, 0.2, 0.4)),
    ("uniform", 1): records((0.1, 0.3, 0.5)),
    ("gain", 0): records((0.1, 0.4, 0.6), step_s=5.0),
    ("gain", 1): records((0.1, 0.2, 0.3), step_s=5.0),
}
FIVE = {(arm, seed): RUNS[arm, seed % 2] for arm in ("uniform", "gain") for seed in range(5)}
SCORING = {f"c.{arm}.{seed}": 7.0 if arm == "gain" else 0.0 for arm in ("uniform", "gain") for seed in range(6)}


def made(runs: dict[tuple[str, int], list[dict[str, Any]]], **changes: Any) -> dict[str, Any]:
    cells = [(cell(arm, seed), found) for (arm, seed), found in runs.items()]
    values: dict[str, Any] = {"strategies": ["uniform", "gain"], "target_accuracy": 0.35, "failed": [], "gain_arms": []}
    table = make_table("c", runs_by_arm(curves(cells, SCORING)), **(values | changes))
    return json.loads(json.dumps(table, allow_nan=False))


def test_curves_have_a_row_for_every_step() -> None:
    table = curves([(cell("gain", 3), RUNS["gain", 0])], SCORING)
    assert table.schema == SCHEMA and table["step"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["eval_accuracy"].to_pylist() == [0.1, None, 0.4, None, 0.6]
    assert table["accuracy"].to_pylist() == [None, 0.5, 0.5, 0.5, 0.5]
    assert table["grad_norm"].to_pylist() == [None, 2.0, None, 2.0, 2.0]
    assert table["total_problems"].to_pylist() == [0, 8, 16, 24, 32]
    assert table["total_seconds"].to_pylist() == [0.0, 5.0, 10.0, 15.0, 20.0]
    assert set(table["strategy"].to_pylist()) == {"gain"} and set(table["seed"].to_pylist()) == {3}
    assert set(table["scoring_seconds"].to_pylist()) == {7.0}


def test_a_run_is_finished_when_its_last_step_is_evaluated() -> None:
    own, whole = cell("gain", 0), RUNS["gain", 0]
    assert is_finished(own, whole)
    assert not is_finished(own, whole[:-1]) and not is_finished(own, [])
    assert not is_finished(cell("gain", 0, steps=6), whole)


def test_every_measure_of_an_arm() -> None:
    uniform, gain = (row["measures"] for row in made(RUNS)["rows"])
    # 0.35 is reached by uniform at 2 + 2 * 0.15 / 0.2 = 3.5 and 2 + 2 * 0.05 / 0.2 = 2.5 steps.
    assert uniform["steps_to_target"]["mean"] == pytest.approx(3.0)
    assert uniform["steps_to_target"]["low"] == 0.0, "3.0 - 12.7062 * 0.5 is no number of steps"
    assert uniform["steps_to_target"]["high"] == pytest.approx(3.0 + 12.7062 * 0.5, abs=1e-4)
    assert uniform["steps_to_target"]["not_reached"] == 0 and uniform["steps_to_target"]["runs"] == 2
    assert uniform["problems_to_target"]["mean"] == pytest.approx(24.0)
    assert uniform["rollouts_to_target"]["mean"] == pytest.approx(96.0)
    assert uniform["tokens_to_target"]["mean"] == pytest.approx(300.0)
    assert uniform["seconds_to_target"]["mean"] == pytest.approx(30.0)
    assert uniform["final_accuracy"]["mean"] == pytest.approx(0.45)
    assert uniform["zero_variance"]["mean"] == pytest.approx(0.5), "1 - mean of 0.2, 0.4, 0.6, 0.8"
    assert uniform["grad_norm"]["mean"] == pytest.approx(2.0)
    # gain: 2 * 0.25 / 0.3 = 5/3 steps with seed 0; seed 1 ends at 4 without reaching it, and is counted.
    assert gain["steps_to_target"] == pytest.approx(
        {"mean": 17 / 6, "low": 0.0, "high": 17 / 6 + 12.7062 * 7 / 6, "runs": 2, "not_reached": 1}, abs=1e-4
    )
    assert gain["seconds_to_target"]["mean"] == pytest.approx((5 * 5 / 3 + 7 + 5 * 4 + 7) / 2), "scoring is charged"


def test_differences_are_paired_by_seed() -> None:
    rows = made(FIVE | {("gain", 5): records((0.1, 0.9, 0.9))})["rows"]
    assert "against" in rows[0] and rows[0]["against"] == {} and "speedup" not in rows[0]
    against = rows[1]["against"]["uniform"]
    # Seed 5 has no pair. Final accuracies differ by 0.2 thrice and -0.2 twice, so a resample has k times 0.2 by
    # Binomial(5, 0.6): k = 0 in 1.0 % of cases, 1 or less in 8.7 %, 5 in 7.8 %.
    assert against["final_accuracy"] == pytest.approx(
        {"difference": 0.04, "low": -0.12, "high": 0.2, "seeds": 5, "not_reached": 0}
    )
    assert against["steps_to_target"]["difference"] == pytest.approx((3 * (5 / 3 - 3.5) + 2 * (4 - 2.5)) / 5)
    assert against["steps_to_target"]["not_reached"] == 2
    few = made(RUNS)["rows"][1]["against"]["uniform"]["final_accuracy"]
    assert few == pytest.approx({"difference": 0.0, "low": None, "high": None, "seeds": 2, "not_reached": 0})


def test_the_target_is_uniforms_mean_at_the_end_unless_given() -> None:
    assert made(RUNS, target_accuracy=None)["target_accuracy"] == pytest.approx(0.45)
    gain = {key: run for key, run in RUNS.items() if key[0] == "gain"}
    table = made(gain, target_accuracy=None, strategies=["gain"])
    assert table["target_accuracy"] is None and table["baselines"] == []
    assert table["rows"][0]["measures"]["steps_to_target"]["mean"] is None
    assert table["rows"][0]["against"] == {} and "No arm is named uniform or length" in to_markdown(table)


def test_the_speedup_is_to_uniforms_final_accuracy_of_the_same_seed() -> None:
    table = made(FIVE, gain_arms=["gain"])
    # Uniform itself needs 4 steps with every seed; gain reaches 0.4 at step 2, and 0.5 never: its 4 are too few.
    speedup = table["rows"][1]["speedup"]
    assert speedup["ratio"] == pytest.approx(20 / 14) and (speedup["seeds"], speedup["not_reached"]) == (5, 2)
    (claim,) = table["claims"]
    assert (claim["published"], claim["measured"]) == (2.5, pytest.approx(20 / 14))
    assert claim["holds"] is False, "at most twice as fast in every resample"
    assert "published 2.5, measured at most 1.429 [" in to_markdown(table)


def test_a_claim_holds_only_where_every_run_reached_it() -> None:
    fast = FIVE | {("gain", seed): records((0.1, 0.9, 0.9)) for seed in range(5)}
    (claim,) = made(fast, gain_arms=["gain"])["claims"]
    # 0.4 and 0.5 are reached at 2 * 0.3 / 0.8 = 0.75 and 2 * 0.4 / 0.8 = 1 step.
    assert claim["measured"] == pytest.approx(20 / (3 * 0.75 + 2)) and claim["holds"] is True
    few = {key: run for key, run in fast.items() if key[1] < 4}
    assert made(few, gain_arms=["gain"])["claims"][0]["holds"] is None, "four seeds have no interval"


def test_half_data_is_held_against_uniform_on_all() -> None:
    runs = FIVE | {("gain-half", seed): records((0.1, 0.2, 0.2)) for seed in range(5)}
    cells = [(cell(arm, seed), found) for (arm, seed), found in runs.items()]
    arms = runs_by_arm(curves(cells, SCORING | {f"c.gain-half.{seed}": 0.0 for seed in range(5)}))
    names = ["uniform", "gain", "gain-half"]
    table = make_table("c", arms, strategies=names, target_accuracy=None, failed=[], gain_arms=["gain"])
    claim = table["claims"][1]
    assert claim["measured"] == pytest.approx(-0.24) and claim["holds"] is False


def test_what_failed_or_was_not_reached_is_shown() -> None:
    failed = [{"strategy": "length", "seed": 1, "error": "DivergenceError: step 3"}]
    runs = {key: run for key, run in RUNS.items() if key != ("gain", 0)}
    table = made(runs, strategies=["uniform", "gain", "length"], failed=failed)
    assert [(row["runs"], row["failed"]) for row in table["rows"]] == [(2, 0), (1, 0), (0, 1)]
    assert table["baselines"] == ["uniform", "length"] and table["failed"] == failed
    text = to_markdown(table)
    assert "0 (+1 failed)" in text and "- length, seed 1: DivergenceError: step 3" in text
    assert "not reached (≥ 4.0)" in text and "1 of 1 not reached" in text
    assert "≥ 2.8 [0.0, 17.7], 1 of 2 not reached" in to_markdown(made(RUNS))
